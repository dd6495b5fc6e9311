r"""GSM8K: grade-school word problems whose answer is a number (arXiv 2110.14168, hub `openai/gsm8k`, MIT).

`official` copies the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae): even rows of the hub's
train split train, odd ones validate, and both the gold and the prediction are the last match of
`\d*\.?\d+`, so signs are lost and "1,080" is read as 80. `fixed` carves val out of train, reads the gold
after `####` and the prediction from \boxed{}, `####` or the last signed number. There are no few-shot
examples here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from t2.grading.answers import final_number, last_number
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, carve_val
from t2.types import Example

ProtocolName = Literal["fixed", "official"]

SYSTEM = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
_OFFICIAL_NUMBER = re.compile(r"\d*\.?\d+")


class GSM8K:
    """Word problems, right if the final number is."""

    def __init__(
        self,
        protocol: ProtocolName = "fixed",
        data_files: Mapping[str, str] | None = None,
        val_size: int = 500,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: int = 512,
        name: str = "gsm8k",
    ) -> None:
        """`data_files` needs `train` and `test`; `val_size` and `seed` matter to `fixed` only."""
        check_choice("protocol of gsm8k", protocol, get_args(ProtocolName))
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._protocol, self._source = protocol, RowSource("openai/gsm8k", "main", data_files, name)
        self._val_size, self._seed = val_size, seed
        self._splits = DisjointSplits(name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split; `metadata["solution"]` is the worked solution."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """1.0 if the number the text gives equals the gold, else 0.0."""
        gold = str(example.answer)
        if self._protocol == "official":
            predicted = _official_number(text)
            return float(predicted is not None and predicted == _official_number(gold))
        number = final_number(text)
        return float(number is not None and number == last_number(gold))

    def about(self) -> dict[str, Any]:
        """The protocol, and source, version and fingerprint of what was read."""
        return {"protocol": self._protocol, **self._source.describe()}

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
        if self._protocol == "official":
            return rows[::2], rows[1::2]
        return carve_val(rows, self._val_size, self._seed, lambda row: str(row["question"]))

    def _rows(self, split: str) -> Sequence[Row]:
        return self._source.rows(split, ("question", "answer"))

    def _example(self, row: Row) -> Example:
        question, solution = str(row["question"]), str(row["answer"])
        _, marker, answer = solution.rpartition("####")
        answer = answer.strip()
        if not marker or last_number(answer) is None:
            raise ValueError(
                f"A GSM8K answer must end in '#### NUMBER'; got {solution[-60:]!r} "
                f"for the question {question[:60]!r}. Correct the row."
            )
        if self._protocol == "fixed":
            answer = answer.replace(",", "")
        return Example(question, answer, SYSTEM, metadata={"question": question, "solution": solution})


def _official_number(text: str) -> float | None:
    found = None
    for match in _OFFICIAL_NUMBER.finditer(text):
        found = match
    return float(found[0]) if found else None
