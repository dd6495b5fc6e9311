r"""GSM8K: grade-school word problems with a numeric answer (arXiv 2110.14168; hub `openai/gsm8k`, MIT).

The gold answer follows `####`; the prediction is the number that a completion states (`t2.grading.stated_number`): in
the last \boxed{}, after `####`, after "the answer is", or the last one. The data set's own rule and the strict one of
lm-evaluation-harness read `####` only, its flexible one the last number; the paper's code (SakanaAI/self-adaptive-llms,
commit 03a41ae) compares the last match of `\d*\.?\d+` in both texts, so that signs are lost and "1,080" is 80. Few-shot
prompts are not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, get_args

from pydantic import PositiveInt

from t2.grading.answers import last_number
from t2.grading.stated_number import stated_number
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, SplitRule, carve_val
from t2.types import Example

SYSTEM = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


class GSM8K:
    """Scores a completion 1.0 if the number that it states equals the gold answer."""

    form = IN_PROMPT

    def __init__(
        self,
        splits: SplitRule = "t2",
        data_files: Mapping[str, str] | None = None,
        val_size: int = 500,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 512,
        name: str = "gsm8k",
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            splits: `t2` samples val from the hub's train split; `paper` trains on its even rows and validates on its
                odd ones.
            data_files: paths for `train` and `test`, read instead of the hub.
            val_size: questions in val, for `splits="t2"`.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.
            name: name of the task.

        Raises:
            ValueError: `splits` is unknown.
        """
        check_choice(f"splits of {name}", splits, get_args(SplitRule))
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._split_rule = splits
        self._source = RowSource("openai/gsm8k", "main", data_files, name, splits=("train", "test"))
        self._val_size, self._seed = val_size, seed
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["solution"]` is the worked solution."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the number that `text` states equals the gold answer exactly, else 0.0."""
        gold, stated = last_number(str(example.answer)), stated_number(text)
        return float(stated is not None and gold is not None and stated == Fraction(gold))

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def about(self) -> dict[str, Any]:
        """Describes the split rule, and the source, version and fingerprint of the splits read so far."""
        return {"split_rule": self._split_rule, **self._source.describe()}

    def _build(self, split: Split) -> list[Example]:
        if split == "test":
            rows: Sequence[Row] = self._rows("test")
        else:
            train, val = self._train_val
            rows = train if split == "train" else val
        return [self._example(row) for row in rows]

    @cached_property
    def _train_val(self) -> tuple[Sequence[Row], Sequence[Row]]:
        rows = list(self._rows("train"))
        if self._split_rule == "paper":
            return rows[::2], rows[1::2]
        return carve_val(rows, self._val_size, self._seed, lambda row: str(row["question"]))

    def _rows(self, split: str) -> Sequence[Row]:
        return self._source.rows(split, ("question", "answer"))

    def _example(self, row: Row) -> Example:
        question, solution = str(row["question"]), str(row["answer"])
        _, marker, answer = solution.rpartition("####")
        answer = answer.strip().replace(",", "")
        if not marker or last_number(answer) is None:
            raise ValueError(
                f"A GSM8K answer must end in '#### NUMBER'; got {solution[-60:]!r} "
                f"for the question {question[:60]!r}. Correct the row."
            )
        return Example(question, answer, SYSTEM, metadata={"question": question, "solution": solution})
