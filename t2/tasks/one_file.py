"""A data set that comes as one file of rows: its splits are sampled here, so that they share neither row nor passage.

What a row asks and how it is scored is for the subclasses: `t2.tasks.word_problems`, `t2.tasks.multiple_choice` and
`t2.tasks.yes_no`. Rows that a task cannot ask about (an answer that is no number, say) are left out, and counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from pydantic import PositiveInt

from t2.tasks.base import Split
from t2.tasks.form import Form
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, carve_val
from t2.types import Example

ALL = "all"  # the key of data_files


class OneFile(ABC):
    """The splits of one file; a subclass says what a row asks."""

    columns: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        name: str,
        form: Form,
        data_files: Mapping[str, str],
        val_size: int = 200,
        test_size: int = 300,
        seed: int = 0,
        limit: int | None = None,
        begun: bool = False,
        max_new_tokens: PositiveInt = 32,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            name: name of the task.
            form: how an answer is to look.
            data_files: path for `all`, the file of all rows.
            val_size: passages (questions, where there is none) in val, with all their questions.
            test_size: likewise in test; the rest is train.
            seed: seed of the sample.
            limit: maximum number of examples in a split.
            begun: begin the model's turn of every example with the form's prefix.
            max_new_tokens: length limit of a completion.
        """
        self.name, self.form, self.max_new_tokens = name, form, max_new_tokens
        self._source = RowSource((), None, data_files, name, splits=(ALL,))
        self._val_size, self._test_size, self._seed, self._begun = val_size, test_size, seed, begun
        self._splits = DisjointSplits(name, lambda split: self._sampled[split], limit)

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split, in the order of the file."""
        return self._splits(split)

    def about(self) -> dict[str, Any]:
        """Describes the source, version and fingerprint of the file, and how many of its rows are asked about."""
        return {"asked_rows": len(self._examples), **self._source.describe()}

    @abstractmethod
    def _example(self, row: Row) -> Example | None:
        """Returns what a row asks, or None where the task cannot ask about it; `metadata["group"]` is its passage."""

    def _chosen(self, examples: list[Example]) -> list[Example]:
        return examples

    @cached_property
    def _examples(self) -> list[Example]:
        read = [self._example(row) for row in self._source.rows(ALL, self.columns)]
        asked = self._chosen([one for one in read if one is not None])
        return [self.form.with_prefix(one) for one in asked] if self._begun else asked

    @cached_property
    def _sampled(self) -> Mapping[Split, Sequence[Example]]:
        things = "passages (or questions without one)"
        rest, test = carve_val(self._examples, self._test_size, self._seed, _group, "test_size", things)
        train, val = carve_val(rest, self._val_size, self._seed, _group, things=things)
        return {"train": train, "val": val, "test": test}


def _group(example: Example) -> str:
    return str(example.metadata["group"])
