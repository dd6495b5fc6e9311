r"""MATH: competition problems whose answer is an expression in \boxed{} (arXiv 2103.03874).

The whole set is hub `EleutherAI/hendrycks_math`, one config per subject, put together in the order given: 7,500 train
and 5,000 test problems. `test_set=math500` tests on the 500 of hub `HuggingFaceH4/MATH-500` instead and learns from the
same train problems.

`official` copies what the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae) makes of an answer: the text
behind the last "The answer is: " up to a period that ends a line, else the last \boxed{}, compared by
`t2.grading.math.paper_equality`. The authors only test on MATH: train and val are those of `fixed`. `fixed` reads the
last \boxed{}, else what the text says that the answer is, compares by cheap rules and then with math-verify, and carves
val out of train. The messages to the model are the same, and there are no few-shot examples here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from t2.grading.answers import boxed
from t2.grading.math.equality import MathGrader, cheaply_equal
from t2.grading.math.paper_equality import is_equiv
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, carve_val
from t2.types import Example, Grade

ProtocolName = Literal["fixed", "official"]
TestSet = Literal["full", "math500"]
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
OFFICIAL_MARK = "The answer is: "
_CONFIGS: tuple[Config, ...] = get_args(Config)
_STATED = re.compile(r"\banswer is:?+[ \t]*+(\S[^\n]*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s+([^$\n]+)")

log = logging.getLogger(__name__)


class MATH:
    """Competition problems, right if the final expression is; subject and level are groups of their own."""

    def __init__(
        self,
        test_set: TestSet = "full",
        configs: Sequence[Config] = _CONFIGS,
        protocol: ProtocolName = "fixed",
        data_files: Mapping[str, str] | None = None,
        val_size: int = 500,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: int = 1024,
        name: str | None = None,
    ) -> None:
        """Say which problems; nothing is read yet.

        Args:
            test_set: `full`, or `math500` for the 500 test problems of MATH-500.
            configs: subjects to take, in this order.
            protocol: how an answer is read and compared.
            data_files: `train` and `test`, one file each, in which rows of other subjects are passed over.
            val_size: questions of train to validate on, drawn by `seed`.
            seed: see `val_size`.
            limit: examples of each split that are handed out.
            max_new_tokens: the answer budget.
            name: None: `math`, or `math500`.

        Raises:
            ValueError: an unknown choice, or no config.
        """
        self.name = name or ("math" if test_set == "full" else test_set)
        check_choice(f"test_set of {self.name}", test_set, get_args(TestSet))
        check_choice(f"protocol of {self.name}", protocol, get_args(ProtocolName))
        for config in configs:
            check_choice(f"a config of {self.name}", config, _CONFIGS)
        if not configs:
            raise ValueError(f"configs of {self.name} is empty; give one or more of: {', '.join(_CONFIGS)}.")
        self.max_new_tokens = max_new_tokens
        self._protocol, self._configs, self._val_size, self._seed = protocol, tuple(configs), val_size, seed
        if data_files is not None:
            self._train = self._test = [RowSource((), None, data_files, self.name)]
        else:
            self._train = [RowSource("EleutherAI/hendrycks_math", one, None, self.name) for one in configs]
            small = RowSource("HuggingFaceH4/MATH-500", None, None, self.name)
            self._test = self._train if test_set == "full" else [small]
        self._splits = DisjointSplits(self.name, self._build, limit)
        self._text_only: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the grader, whose processes stay where they are."""
        return {key: value for key, value in vars(self).items() if key != "_grader"}

    def split(self, split: Split) -> Sequence[Example]:
        r"""The examples of a split; `answer` is the gold in a \boxed{}, `metadata["solution"]` the worked solution."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """1.0 if the expression that the text gives equals the gold, else 0.0."""
        return self.grade(example, text).score

    def grade(self, example: Example, text: str) -> Grade:
        """The score, `extracted` the expression that was judged; the reason is `no answer` or `wrong`."""
        gold = boxed(str(example.answer)) or ""
        official = self._protocol == "official"
        answer = _official_answer(text) if official else _final_answer(text)
        if answer is None:
            return Grade(0.0, "no answer")
        right = is_equiv(gold, answer) if official else self._means(gold, answer)
        return Grade(1.0, None, answer) if right else Grade(0.0, "wrong", answer)

    def about(self) -> dict[str, Any]:
        """The protocol, the subjects, and source, version and fingerprint of what was read, source by source."""
        sources = {id(one): one.describe() for one in (*self._train, *self._test)}
        read = [one for one in sources.values() if one["splits"]]
        return {"protocol": self._protocol, "configs": list(self._configs), "sources": read}

    @cached_property
    def _grader(self) -> MathGrader:
        return MathGrader()

    def _means(self, gold: str, answer: str) -> bool:
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
        named = {"id": str(row["unique_id"])} if "unique_id" in row else {}
        groups = {"subject": _subject(row), "level": str(row["level"]).removeprefix("Level").strip()}
        metadata = {"question": problem, "solution": solution, "groups": groups, **named}
        return Example(problem, answer, SYSTEM, metadata=metadata)


def _subject(row: Row) -> str:
    return str(row["subject"] if "subject" in row else row["type"])


def _config(subject: str) -> str:
    """Counting & Probability -> counting_and_probability."""
    return subject.lower().replace("&", "and").replace(" ", "_")


def _gold(solution: str) -> str | None:
    r"""The last box; where it has no braces, `\boxed \frac12$` is read up to the end of the formula."""
    if (gold := boxed(solution)) is not None:
        return gold.strip()
    unbraced = _UNBRACED.findall(solution)
    return str(unbraced[-1]).strip() if unbraced else None


def _final_answer(text: str) -> str | None:
    box = (boxed(text) or "").strip()
    if box:
        return box
    stated = _STATED.findall(text)
    answer = _SENTENCE_END.split(stated[-1], maxsplit=1)[0].strip("$* ") if stated else ""
    return answer or None


def _official_answer(text: str) -> str | None:
    _, marked, answer = text.rpartition(OFFICIAL_MARK)
    return answer.split(".\n", 1)[0] if marked else boxed(text)
