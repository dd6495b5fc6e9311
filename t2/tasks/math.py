r"""MATH: competition problems whose answer is an expression in \boxed{} (arXiv 2103.03874).

The data is hub `EleutherAI/hendrycks_math`, one config per subject, concatenated in the order given: 7,500 train and
5,000 test problems. `test_set=math500` tests on the 500 problems of hub `HuggingFaceH4/MATH-500` instead, with the same
train problems. val is carved out of train.

The prediction is the last \boxed{}, else what follows the last "answer is". It is compared with the gold answer by
`t2.grading.math.equality`, which accepts more forms of a value than MATH's own `is_equiv` does and no rounding.
`grader=paper` is the rule of the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae): what follows the last "The
answer is: ", else the last \boxed{}, compared by `t2.grading.math.paper_equality` as text and as numbers within 1e-4; a
number a hundred times the gold answer, or a hundredth of it, counts as correct. Few-shot prompts are not offered.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.answers import boxed
from t2.grading.math.equality import MathGrader, cheaply_equal
from t2.grading.math.paper_equality import is_equiv
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, carve_val
from t2.types import Example, Grade

TestSet = Literal["full", "math500"]
GraderName = Literal["t2", "paper"]
Config = Literal[
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
]

SYSTEM = r"Solve the question below by reasoning step by step,and put the final answer within \boxed{}."
COLUMNS = ("problem", "level", "solution")
_CONFIGS: tuple[Config, ...] = get_args(Config)
_STATED = re.compile(r"\banswer is:?+[ \t]*+(\S[^\n]*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s+([^$\n]+)")

log = logging.getLogger(__name__)


class MATH:
    """Scores a completion 1.0 if its final expression equals the gold answer. Groups are subject and level."""

    form = IN_PROMPT

    def __init__(
        self,
        test_set: TestSet = "full",
        grader: GraderName = "t2",
        configs: Sequence[Config] = _CONFIGS,
        data_files: Mapping[str, str] | None = None,
        val_size: int = 500,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 1024,
        name: str | None = None,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            test_set: `full`, or `math500` for the 500 test problems of MATH-500.
            grader: `t2`, or `paper` to read and compare answers as the paper's code does.
            configs: subjects to include, in this order.
            data_files: paths for `train` and `test`, read instead of the hub; rows of other subjects are skipped.
            val_size: questions in val, sampled from train.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.
            name: None for `math` or `math500`.

        Raises:
            ValueError: `test_set`, `grader` or a config is unknown, or there is no config.
        """
        self.name = name or ("math" if test_set == "full" else test_set)
        check_choice(f"test_set of {self.name}", test_set, get_args(TestSet))
        check_choice(f"grader of {self.name}", grader, get_args(GraderName))
        for config in configs:
            check_choice(f"a config of {self.name}", config, _CONFIGS)
        if not configs:
            raise ValueError(f"configs of {self.name} is empty; give one or more of: {', '.join(_CONFIGS)}.")
        self.max_new_tokens = max_new_tokens
        self._grader_name = grader
        self._configs, self._val_size, self._seed = tuple(configs), val_size, seed
        if data_files is not None:
            self._train = self._test = [RowSource((), None, data_files, self.name, splits=("train", "test"))]
        else:
            self._train = [RowSource("EleutherAI/hendrycks_math", one, None, self.name) for one in configs]
            small = RowSource("HuggingFaceH4/MATH-500", None, None, self.name)
            self._test = self._train if test_set == "full" else [small]
        self._splits = DisjointSplits(self.name, self._build, limit)
        self._text_only: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the grader, whose worker processes cannot be pickled."""
        return {key: value for key, value in vars(self).items() if key != "_grader"}

    def split(self, split: Split) -> Sequence[Example]:
        r"""Returns the examples of a split; `answer` is in a \boxed{}, `metadata["solution"]` the worked solution."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the final expression of `text` equals the gold answer, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the score; `extracted` is the final expression, the reason `no answer` or `wrong`."""
        is_paper = self._grader_name == "paper"
        answer = _paper_answer(text) if is_paper else _final_answer(text)
        if answer is None:
            return Grade(0.0, "no answer")
        right = (is_equiv if is_paper else self._equivalent)(boxed(str(example.answer)) or "", answer)
        return Grade(1.0, None, answer) if right else Grade(0.0, "wrong", answer)

    def about(self) -> dict[str, Any]:
        """Describes the grader, the subjects, and source, version and fingerprint of the splits read so far."""
        sources = {id(one): one.describe() for one in (*self._train, *self._test)}
        read = [one for one in sources.values() if one["splits"]]
        return {"grader": self._grader_name, "configs": list(self._configs), "sources": read}

    @cached_property
    def _grader(self) -> MathGrader:
        return MathGrader()

    def _equivalent(self, gold: str, answer: str) -> bool:
        if cheaply_equal(gold, answer) or self._grader.equivalent(gold, answer):
            return True
        if gold not in self._text_only and not self._grader.can_parse(gold):
            self._text_only.add(gold)
            log.info(
                "%s: %d references so far can only be matched as text, not as expressions; the last: %s",
                self.name,
                len(self._text_only),
                gold,
            )
        return False

    def _build(self, split: Split) -> list[Example]:
        if split == "test":
            return [self._example(row) for row in self._rows("test", self._test)]
        train, val = self._train_val
        return [self._example(row) for row in (train if split == "train" else val)]

    @cached_property
    def _train_val(self) -> tuple[Sequence[Row], Sequence[Row]]:
        rows = self._rows("train", self._train)
        return carve_val(rows, self._val_size, self._seed, lambda row: str(row["problem"]))

    def _rows(self, split: str, sources: Sequence[RowSource]) -> list[Row]:
        rows: list[Row] = []
        for source in sources:  # hendrycks_math has a column `type`, MATH-500 calls it `subject`
            subject = "subject" if "subject" in source.rows(split, COLUMNS)[0] else "type"
            rows += source.rows(split, (*COLUMNS, subject))
        if set(self._configs) == set(_CONFIGS):
            return rows
        subjects = dict.fromkeys(map(_subject, rows))
        rows = [row for row in rows if _config(_subject(row)) in self._configs]
        if not rows:
            raise ValueError(
                f"Split {split!r} of {self.name} has no row of {', '.join(self._configs)}; its subjects are "
                f"{', '.join(subjects)}. Give other configs."
            )
        return rows

    def _example(self, row: Row) -> Example:
        problem, solution = str(row["problem"]), str(row["solution"])
        gold = _gold(solution)
        answer = f"\\boxed{{{gold}}}"
        if gold is None or not cheaply_equal(gold, boxed(answer) or ""):
            raise ValueError(
                f"A MATH solution must give its answer in \\boxed{{...}}; got {solution[-80:]!r} for the problem "
                f"{problem[:60]!r}, in which nothing could be read. Correct the row."
            )
        row_id = {"id": str(row["unique_id"])} if "unique_id" in row else {}
        groups = {"subject": _subject(row), "level": str(row["level"]).removeprefix("Level").strip()}
        metadata = {"question": problem, "solution": solution, "groups": groups, **row_id}
        return Example(problem, answer, SYSTEM, metadata=metadata)


def _subject(row: Row) -> str:
    return str(row["subject"] if "subject" in row else row["type"])


def _config(subject: str) -> str:
    """Converts the name of a subject to that of its config: Counting & Probability -> counting_and_probability."""
    return subject.lower().replace("&", "and").replace(" ", "_")


def _gold(solution: str) -> str | None:
    r"""Returns the content of the last \boxed{}; one without braces, as in `\boxed \frac12$`, ends with the formula."""
    if (gold := boxed(solution)) is not None:
        return gold.strip()
    unbraced = _UNBRACED.findall(solution)
    return str(unbraced[-1]).strip() if unbraced else None


def _paper_answer(text: str) -> str | None:
    _, marked, answer = text.rpartition("The answer is: ")
    return answer.split(".\n", 1)[0] if marked else boxed(text)


def _final_answer(text: str) -> str | None:
    box = (boxed(text) or "").strip()
    if box:
        return box
    stated = _STATED.findall(text)
    answer = _SENTENCE_END.split(stated[-1], maxsplit=1)[0].strip("$* ") if stated else ""
    return answer or None
