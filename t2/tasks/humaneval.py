"""HumanEval: complete a Python function from its signature and docstring (arXiv 2107.03374, MIT; plus: 2305.01210).

164 problems, all of them test. `official` copies the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae): the
answer is cut at the first fence and put behind the problem's prompt as it is. `fixed` also drops what follows the last
line that parses, and what the function does not need. The messages are the same, and the response prefix opens a fence
and holds the prompt, so that the model goes on writing the function; that of `fixed` also begins to indent its body,
without which a small model takes the docstring for the whole answer and closes the fence.

Which tests are run is the rows' business: those of `evalplus/humanevalplus` (hub, Apache-2.0) have the same columns
and many more tests, which need numpy. Nothing runs a program here; that is the executor's work. There is no partial
credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.programs import cut_program, fenced_code, unix_newlines
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.mbpp import FENCE, RESPONSE_PREFIX, SYSTEM, seeded_split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits
from t2.types import Example, Grade

ProtocolName = Literal["fixed", "official"]

INDENT = "   "  # and the blank that a token such as " return" begins with
COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


class HumanEval:
    """One function per answer, right if it passes every test."""

    def __init__(
        self,
        executor: CodeExecutor,
        protocol: ProtocolName = "fixed",
        hub_id: str = "openai/openai_humaneval",
        data_files: Mapping[str, str] | None = None,
        split_sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: int = 512,
        name: str = "humaneval",
    ) -> None:
        """`data_files` needs `test`, and is read in place of `hub_id`.

        With `split_sizes` (train and val, drawn by `seed`) the rest is test; without, everything is, and there is
        nothing to learn from.
        """
        check_choice("protocol of humaneval", protocol, get_args(ProtocolName))
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._executor, self._protocol, self._sizes, self._seed = executor, protocol, split_sizes, seed
        self._source = RowSource(hub_id, None, data_files, name)
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split; `metadata["test"]` is what `grade` runs, `metadata["entry_point"]` what it calls.

        Raises:
            ValueError: train or val without `split_sizes`.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split != "test" and self._sizes is None:
            raise ValueError(
                f"{self.name} has no {split} split: all its problems are for testing. Learn from another task "
                "(task=mbpp), adapt with a few examples of the test split (t2.tasks.few_shot_split.FewShotSplit), or "
                "divide it: task.split_sizes={train: 40, val: 24}."
            )
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """1.0 if the function that `text` completes passes every test, else 0.0."""
        return self.grade(example, text).score

    def grade(self, example: Example, text: str) -> Grade:
        """The executor's grade of the problem's prompt with the completion behind it, which is `extracted`."""
        test: CodeTest = example.metadata["test"]
        prompt: str = example.metadata["question"]
        if self._protocol == "official":
            program = prompt + text.split(FENCE, 1)[0]
        else:
            body = text if text.startswith("    ") else INDENT + text  # some models indent all the same
            program = _program(prompt, fenced_code(RESPONSE_PREFIX + body), test.entry_point)
        return self._executor.run(program, test)

    def about(self) -> dict[str, Any]:
        """The protocol, the sandbox in use, and source, version and fingerprint of what was read."""
        return {"protocol": self._protocol, "sandbox": self._executor.level, **self._source.describe()}

    def _build(self, split: Split) -> list[Example]:
        return [self._example(self._rows[number]) for number in self._numbers[split]]

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return list(self._source.rows("test", COLUMNS))

    @cached_property
    def _numbers(self) -> Mapping[Split, Sequence[int]]:
        rows = len(self._rows)
        return {"test": range(rows)} if self._sizes is None else seeded_split(rows, self._sizes, self._seed, self.name)

    def _example(self, row: Row) -> Example:
        prompt, solution, tests = (unix_newlines(str(row[key])) for key in ("prompt", "canonical_solution", "test"))
        name, entry_point = str(row["task_id"]), str(row["entry_point"])
        if f"def {entry_point}(" not in prompt:
            raise ValueError(f"The prompt of {name} does not begin its entry point {entry_point}. Correct the row.")
        end = "" if solution.endswith("\n") else "\n"
        begun = INDENT if self._protocol == "fixed" else ""
        return Example(
            prompt=f"Write a solution to the following problem:\n{RESPONSE_PREFIX}{prompt}\n{FENCE}",
            answer=f"{solution.removeprefix(begun)}{end}{FENCE}",
            system=SYSTEM,
            response_prefix=f"{RESPONSE_PREFIX}{prompt}{begun}",
            metadata={
                "id": name,
                "question": prompt,
                "entry_point": entry_point,
                # Some tests call helper functions that the prompt defines.
                "test": CodeTest(entry_point, f"{tests}\ncheck({entry_point})", prompt),
            },
        )


def _program(prompt: str, completion: str, entry_point: str) -> str:
    """The prompt goes first even where the completion defines all anew: it may count on the prompt's imports."""
    whole = f"{prompt}{completion}"
    program = cut_program(whole, entry_point)
    # The prompt alone parses too; where nothing of the completion does, running it whole says so.
    return whole if program == cut_program(prompt, entry_point) else program
