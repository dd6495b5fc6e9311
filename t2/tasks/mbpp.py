"""MBPP: short Python functions specified by a sentence and one assert (arXiv 2108.07732; MBPP+: arXiv 2305.01210).

`variant` selects the rows: `plus` (hub `evalplus/mbppplus`, 378 problems, Apache-2.0), `sanitized` or `full` (hub
`google-research-datasets/mbpp`, CC-BY-4.0). The prompt shows the first assert; a completion is correct if its program
passes all of them. `tests=plus` adds MBPP+'s many more tests in the test split; train and val keep the base asserts. A
row's own `code` says how long a program may take, where that is long.

The paper (SakanaAI/self-adaptive-llms, commit 03a41ae) used MBPP+ v0.1.0 (399 problems, 99 of them test); the hub holds
v0.2.0 (378, so that `splits=paper` has 78), and numbers of the two do not compare. Its code also begins the response
without a line break after the fence, and cuts programs with EvalPlus's legacy sanitizer, which drops a function without
an indented `return`. Here programs are cut by `t2.grading.sandbox.programs.cut_program`, and run by
`t2.grading.sandbox.executor`. There is no partial credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.programs import (
    cut_program,
    defines,
    entry_point_of,
    fenced_code,
    normalized_source,
    unix_newlines,
)
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, SplitRule
from t2.types import Example, Grade

Variant = Literal["plus", "sanitized", "full"]
Tests = Literal["base", "plus"]

SYSTEM = (
    "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable responses "
    "to user instructions."  # the double space is the paper's
)
FENCE = "```"
RESPONSE_PREFIX = f"{FENCE}python\n"
PAPER_POOL, PAPER_TRAIN, PAPER_SEED = 300, 200, 16


@dataclass(frozen=True)
class _Data:
    """The source and the column names of a variant."""

    hub_id: str
    config: str | None
    text: str
    setup: str
    splits: Mapping[Split, str]  # names in the data set; empty where one split is divided

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the columns that `tests=base` needs."""
        return ("task_id", self.text, "code", "test_list", self.setup)


_NATIVE: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
_DATA: Mapping[Variant, _Data] = {
    "plus": _Data("evalplus/mbppplus", None, "prompt", "test_imports", {}),
    "sanitized": _Data("google-research-datasets/mbpp", "sanitized", "prompt", "test_imports", _NATIVE),
    "full": _Data("google-research-datasets/mbpp", "full", "text", "test_setup_code", _NATIVE),
}


def paper_order() -> list[int]:
    """Shuffles the indices of the first 300 rows as the paper's code does: 200 of train, then 100 of val."""
    order = list(range(PAPER_POOL))
    Random(PAPER_SEED).shuffle(order)
    return order


def seeded_split(rows: int, sizes: Mapping[str, int], seed: int, name: str) -> dict[Split, list[int]]:
    """Samples the row indices of train and val, sorted; the rest are test.

    Args:
        rows: number of rows.
        sizes: sizes of `train` and `val`.
        seed: seed of the sample.
        name: name of the task, for messages.

    Raises:
        ValueError: a size is missing, unknown or below 1, or nothing is left to test on.
    """
    if set(sizes) != {"train", "val"} or min(sizes.values()) < 1 or sum(sizes.values()) >= rows:
        raise ValueError(
            f"split_sizes of {name} is {dict(sizes)}; train and val are needed, at least 1 each, and fewer together "
            f"than the {rows} rows, of which the rest is test."
        )
    order = Random(seed).sample(range(rows), rows)
    train, val = sizes["train"], sizes["val"]
    return {
        "train": sorted(order[:train]),
        "val": sorted(order[train : train + val]),
        "test": sorted(order[train + val :]),
    }


class MBPP:
    """Scores a completion 1.0 if its function passes every assert."""

    form = IN_PROMPT

    def __init__(
        self,
        executor: CodeExecutor,
        splits: SplitRule = "t2",
        variant: Variant = "plus",
        tests: Tests = "base",
        data_files: Mapping[str, str] | None = None,
        split_sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 512,
        name: str = "mbpp",
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            executor: runs the programs.
            splits: with `variant="plus"`, which has one split: `t2` samples `split_sizes` of its rows; `paper` shuffles
                the first 300 rows with seed 16 into 200 of train and 100 of val, and tests on the rest.
            variant: `plus`, `sanitized` or `full`; the last two keep the splits of the data set.
            tests: `base` asserts, or `plus` for many more tests in the test split.
            data_files: paths for `test` and, unless `variant="plus"`, `train` and `validation`, instead of the hub.
            split_sizes: sizes of `train` and `val`, for `splits="t2"`; None for 200 and 78.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.
            name: name of the task.

        Raises:
            ValueError: an option is unknown, or two options exclude each other.
        """
        check_choice("splits of mbpp", splits, get_args(SplitRule))
        check_choice("variant of mbpp", variant, get_args(Variant))
        check_choice("tests of mbpp", tests, get_args(Tests))
        if splits == "paper" and variant != "plus":
            raise ValueError(
                f"splits=paper of mbpp are indices into variant=plus; got variant={variant}, which has splits of its "
                "own. Use splits=t2."
            )
        if tests == "plus" and variant != "plus":
            raise ValueError(f"tests=plus of mbpp needs variant=plus, the rows that have them; got variant={variant}.")
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._executor, self._split_rule, self._variant, self._tests = executor, splits, variant, tests
        self._sizes, self._seed = split_sizes or {"train": 200, "val": 78}, seed
        self._data = _DATA[variant]
        read = tuple(self._data.splits.values()) or ("test",)
        self._source = RowSource(self._data.hub_id, self._data.config, data_files, name, splits=read)
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["test"]` holds the tests of `metadata["entry_point"]`."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the program in `text` passes every test, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the executor's grade of the program in `text`, the program in `extracted`."""
        test: CodeTest = example.metadata["test"]
        return self._executor.run(cut_program(fenced_code(example.response_prefix + text), test.entry_point), test)

    def about(self) -> dict[str, Any]:
        """Describes the options, the sandbox in use, and the source, version and fingerprint of the splits read."""
        return {
            "split_rule": self._split_rule,
            "variant": self._variant,
            "tests": self._tests,
            "sandbox": self._executor.level,
            **self._source.describe(),
        }

    def _build(self, split: Split) -> list[Example]:
        tests = self._tests if split == "test" else "base"
        if self._data.splits:
            rows = self._source.rows(self._data.splits[split], self._data.columns)
        else:
            rows = [self._rows[index] for index in self._indices[split]]
        return [self._example(row, tests) for row in rows]

    @cached_property
    def _rows(self) -> Sequence[Row]:
        columns = self._data.columns
        return list(self._source.rows("test", (*columns, "test") if self._tests == "plus" else columns))

    @cached_property
    def _indices(self) -> Mapping[Split, Sequence[int]]:
        rows = len(self._rows)
        if self._split_rule == "t2":
            return seeded_split(rows, self._sizes, self._seed, self.name)
        if rows <= PAPER_POOL:
            raise ValueError(
                f"splits=paper of mbpp takes train and val from the first {PAPER_POOL} rows and tests on the rest; "
                f"there are only {rows}. Give all of MBPP+, or use splits=t2."
            )
        order = paper_order()
        parts = order[:PAPER_TRAIN], order[PAPER_TRAIN:], range(PAPER_POOL, rows)
        return dict(zip(SPLITS, parts, strict=True))

    def _example(self, row: Row, tests: Tests) -> Example:
        name, text = f"Mbpp/{row['task_id']}", unix_newlines(str(row[self._data.text])).strip()
        asserts = [unix_newlines(str(one)).strip() for one in row["test_list"]]
        code = normalized_source(str(row["code"])).strip("\n")
        try:
            entry_point = entry_point_of(asserts)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if not defines(code, entry_point):
            raise ValueError(
                f"The code of {name} does not define {entry_point}, which its tests call. Correct the row."
            )
        setup = row[self._data.setup]
        lines = [setup] if isinstance(setup, str) else setup
        program = "\n".join([*asserts, unix_newlines(str(row["test"]))] if tests == "plus" else asserts)
        text = text if text.endswith(".") else f"{text}."
        return Example(
            prompt=f"{text} Your code should satisfy the following assertion:\n{RESPONSE_PREFIX}{asserts[0]}\n{FENCE}",
            answer=f"{code}\n{FENCE}",
            system=SYSTEM,
            response_prefix=RESPONSE_PREFIX,
            metadata={
                "id": name,
                "question": text,
                "entry_point": entry_point,
                "test": CodeTest(entry_point, program, unix_newlines("\n".join(map(str, lines))), reference=code),
            },
        )
