"""HumanEval: complete a Python function from its signature and docstring (arXiv 2107.03374, MIT; plus: 2305.01210).

All of its 164 problems are test. The response prefix opens a fence and holds the problem's prompt and three spaces of
the body's indentation, without which a small model takes the docstring for the whole answer and closes the fence. The
prompt and the completion are cut to the longest prefix that parses and to what the function needs. The paper's code
(SakanaAI/self-adaptive-llms, commit 03a41ae) leaves the indentation out and runs all that precedes the first fence.

The rows hold the tests: those of hub `evalplus/humanevalplus` (Apache-2.0) have the same columns and many more tests,
which need numpy. Programs are run by `t2.grading.sandbox.executor`, not here. There is no partial credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import PositiveInt

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.programs import cut_program, fenced_code, unix_newlines
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, NoSplit, Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.mbpp import FENCE, RESPONSE_PREFIX, SYSTEM, seeded_split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits
from t2.types import Example, Grade

INDENT = "   "  # the fourth space is part of the next token, such as " return"
COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


class HumanEval:
    """Scores a completion 1.0 if the function that it completes passes every test."""

    form = IN_PROMPT

    def __init__(
        self,
        executor: CodeExecutor,
        hub_id: str = "openai/openai_humaneval",
        data_files: Mapping[str, str] | None = None,
        split_sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 512,
        name: str = "humaneval",
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            executor: runs the programs.
            hub_id: the hub's data set.
            data_files: path for `test`, read instead of the hub.
            split_sizes: sizes of `train` and `val`, sampled from the problems; None: all problems are test.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.
            name: name of the task.
        """
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._executor, self._sizes, self._seed = executor, split_sizes, seed
        self._source = RowSource(hub_id, None, data_files, name, splits=("test",))
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["test"]` holds the tests of `metadata["entry_point"]`.

        Raises:
            NoSplit: it is train or val without `split_sizes`.
            ValueError: the split is unknown.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split != "test" and self._sizes is None:
            raise NoSplit(
                f"{self.name} has no {split} split: all its problems are for testing. Learn from another task "
                "(task=mbpp), adapt with a few examples of the test split (t2.tasks.few_shot_split.FewShotSplit), or "
                "divide it: task.split_sizes={train: 40, val: 24}."
            )
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the function that `text` completes passes every test, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the executor's grade of the problem's prompt and the completion, the program in `extracted`."""
        test: CodeTest = example.metadata["test"]
        prompt: str = example.metadata["question"]
        body = text if text.startswith("    ") else INDENT + text  # some models repeat the prefix's indentation
        program = _program(prompt, fenced_code(RESPONSE_PREFIX + body), test.entry_point)
        return self._executor.run(program, test)

    def about(self) -> dict[str, Any]:
        """Describes the sandbox in use, and the source, version and fingerprint of the splits read so far."""
        return {"sandbox": self._executor.level, **self._source.describe()}

    def _build(self, split: Split) -> list[Example]:
        return [self._example(self._rows[index]) for index in self._indices[split]]

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return list(self._source.rows("test", COLUMNS))

    @cached_property
    def _indices(self) -> Mapping[Split, Sequence[int]]:
        rows = len(self._rows)
        return {"test": range(rows)} if self._sizes is None else seeded_split(rows, self._sizes, self._seed, self.name)

    def _example(self, row: Row) -> Example:
        prompt, solution, tests = (unix_newlines(str(row[key])) for key in ("prompt", "canonical_solution", "test"))
        name, entry_point = str(row["task_id"]), str(row["entry_point"])
        if f"def {entry_point}(" not in prompt:
            raise ValueError(f"The prompt of {name} does not begin its entry point {entry_point}. Correct the row.")
        end = "" if solution.endswith("\n") else "\n"
        return Example(
            prompt=f"Write a solution to the following problem:\n{RESPONSE_PREFIX}{prompt}\n{FENCE}",
            answer=f"{solution.removeprefix(INDENT)}{end}{FENCE}",
            system=SYSTEM,
            response_prefix=f"{RESPONSE_PREFIX}{prompt}{INDENT}",
            metadata={
                "id": name,
                "question": prompt,
                "entry_point": entry_point,
                # Some tests call helper functions that the prompt defines.
                "test": CodeTest(
                    entry_point, f"{tests}\ncheck({entry_point})", prompt, reference=f"{prompt}{solution}"
                ),
            },
        )


def _program(prompt: str, completion: str, entry_point: str) -> str:
    """Joins the prompt and the completion, which may rely on the prompt's imports even if it repeats the function."""
    whole = f"{prompt}{completion}"
    program = cut_program(whole, entry_point)
    # The prompt parses by itself. Where nothing of the completion does, the whole is run and fails with its reason.
    return whole if program == cut_program(prompt, entry_point) else program
