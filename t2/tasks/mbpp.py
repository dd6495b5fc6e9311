"""MBPP: short Python functions asked for in one sentence and one assert (arXiv 2108.07732; MBPP+: arXiv 2305.01210).

`variant` names the rows: `plus` (hub `evalplus/mbppplus`, 378 problems, Apache-2.0), `sanitized` or `full` (hub
`google-research-datasets/mbpp`, CC-BY-4.0). The prompt shows the first assert; an answer is right if all of them
pass, so one that only satisfies what it was shown is wrong.

`official` copies the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae): of `plus`, the first 300 rows in file
order, shuffled with seed 16, give 200 to train and 100 to val, the rest is test; base tests; the answer is cut at the
first fence and goes through EvalPlus's legacy sanitizer. The paper used MBPP+ v0.1.0 (399 problems, 99 of them test);
the hub holds v0.2.0 (378, so 78), and numbers of the two do not compare. `fixed` splits `plus` by a seed, keeps the
splits of the other variants, and cuts the answer with `t2.grading.sandbox.programs.cut_program`. The messages are the
same, but for a line break behind the official response prefix.

`tests=plus` grades the test split by the base asserts and MBPP+'s many more; train and val keep the base asserts.
Nothing runs a program here; that is the executor's work. There is no partial credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.programs import (
    cut_program,
    defines,
    entry_point_of,
    fenced_code,
    legacy_sanitize,
    normalized_source,
    unix_newlines,
)
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits
from t2.types import Example, Grade

ProtocolName = Literal["fixed", "official"]
Variant = Literal["plus", "sanitized", "full"]
Tests = Literal["base", "plus"]

SYSTEM = (
    "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable responses "
    "to user instructions."  # the two blanks are the paper's
)
FENCE = "```"
RESPONSE_PREFIX = f"{FENCE}python\n"
OFFICIAL_RESPONSE_PREFIX = f"{FENCE}python"  # the paper trains with a line break behind it and samples without one
OFFICIAL_POOL, OFFICIAL_TRAIN, OFFICIAL_SEED = 300, 200, 16


@dataclass(frozen=True)
class _Data:
    """Where the rows of a variant are, and what its columns are called."""

    hub_id: str
    config: str | None
    text: str
    setup: str
    splits: Mapping[Split, str]  # of the data set; empty where there is one split to be divided

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns every variant needs."""
        return ("task_id", self.text, "code", "test_list", self.setup)


_NATIVE: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
_DATA: Mapping[Variant, _Data] = {
    "plus": _Data("evalplus/mbppplus", None, "prompt", "test_imports", {}),
    "sanitized": _Data("google-research-datasets/mbpp", "sanitized", "prompt", "test_imports", _NATIVE),
    "full": _Data("google-research-datasets/mbpp", "full", "text", "test_setup_code", _NATIVE),
}


def official_order() -> list[int]:
    """The first 300 row numbers as the paper's code shuffles them: 200 to train on, then 100 to validate on."""
    order = list(range(OFFICIAL_POOL))
    Random(OFFICIAL_SEED).shuffle(order)
    return order


def seeded_split(rows: int, sizes: Mapping[str, int], seed: int, name: str) -> dict[Split, list[int]]:
    """Row numbers of each split, in order: `sizes` of them in train and val, the rest in test.

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
    """One function per answer, right if it passes every assert."""

    def __init__(
        self,
        executor: CodeExecutor,
        protocol: ProtocolName = "fixed",
        variant: Variant = "plus",
        tests: Tests = "base",
        data_files: Mapping[str, str] | None = None,
        split_sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: int = 512,
        name: str = "mbpp",
    ) -> None:
        """`data_files` needs `test`, and `train` and `validation` where they are not divided out of `test`.

        `split_sizes` (train and val, the rest is test) and `seed` matter to `fixed` with `plus` only.

        Raises:
            ValueError: an unknown choice, or choices that do not go together.
        """
        check_choice("protocol of mbpp", protocol, get_args(ProtocolName))
        check_choice("variant of mbpp", variant, get_args(Variant))
        check_choice("tests of mbpp", tests, get_args(Tests))
        if protocol == "official" and (variant, tests) != ("plus", "base"):
            raise ValueError(
                f"protocol=official of mbpp stands for variant=plus with tests=base; got variant={variant} with "
                f"tests={tests}. Use protocol=fixed for other data."
            )
        if tests == "plus" and variant != "plus":
            raise ValueError(f"tests=plus of mbpp needs variant=plus, the rows that have them; got variant={variant}.")
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._executor, self._protocol, self._variant, self._tests = executor, protocol, variant, tests
        self._sizes, self._seed = split_sizes or {"train": 200, "val": 78}, seed
        self._data = _DATA[variant]
        self._source = RowSource(self._data.hub_id, self._data.config, data_files, name)
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split; `metadata["test"]` is what `grade` runs, `metadata["entry_point"]` what it calls."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """1.0 if the program in `text` passes every test, else 0.0."""
        return self.grade(example, text).score

    def grade(self, example: Example, text: str) -> Grade:
        """The executor's grade of the program in `text`, which is `extracted`."""
        test: CodeTest = example.metadata["test"]
        if self._protocol == "official":
            program = legacy_sanitize(text.split(FENCE, 1)[0], test.entry_point)
        else:
            program = cut_program(fenced_code(example.response_prefix + text), test.entry_point)
        return self._executor.run(program, test)

    def about(self) -> dict[str, Any]:
        """Protocol, variant, tests, the sandbox in use and the data read so far."""
        return {
            "protocol": self._protocol,
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
            rows = [self._rows[number] for number in self._numbers[split]]
        return [self._example(row, tests) for row in rows]

    @cached_property
    def _rows(self) -> Sequence[Row]:
        columns = self._data.columns
        return list(self._source.rows("test", (*columns, "test") if self._tests == "plus" else columns))

    @cached_property
    def _numbers(self) -> Mapping[Split, Sequence[int]]:
        rows = len(self._rows)
        if self._protocol == "fixed":
            return seeded_split(rows, self._sizes, self._seed, self.name)
        if rows <= OFFICIAL_POOL:
            raise ValueError(
                f"protocol=official of mbpp learns from the first {OFFICIAL_POOL} rows and tests on the rest; there "
                f"are only {rows}. Give all of MBPP+, or use protocol=fixed."
            )
        order = official_order()
        parts = order[:OFFICIAL_TRAIN], order[OFFICIAL_TRAIN:], range(OFFICIAL_POOL, rows)
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
        official = self._protocol == "official"
        return Example(
            prompt=f"{text} Your code should satisfy the following assertion:\n{RESPONSE_PREFIX}{asserts[0]}\n{FENCE}",
            answer=("\n" if official else "") + f"{code}\n{FENCE}",
            system=SYSTEM,
            response_prefix=OFFICIAL_RESPONSE_PREFIX if official else RESPONSE_PREFIX,
            metadata={
                "id": name,
                "question": text,
                "entry_point": entry_point,
                "test": CodeTest(entry_point, program, unix_newlines("\n".join(map(str, lines)))),
            },
        )
