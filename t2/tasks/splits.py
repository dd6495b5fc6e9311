"""How rows become splits that share no question, and the checks that tasks have in common.

Where rows come from is `t2.tasks.row_source`'s business. Nothing here knows what a row means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random
from typing import Literal, TypeVar

from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.types import Example, LazyImage

Item = TypeVar("Item")


def same_text(question: str) -> str:
    """The form in which two questions count as the same: case and runs of white space do not matter."""
    return " ".join(question.split()).casefold()


def carve_val(
    rows: Sequence[Item], size: int, seed: int, question: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Take `size` random questions, with all their rows, out: (the rest, those taken), both in order.

    Raises:
        ValueError: `size` is below 1, or as large as the number of distinct questions.
    """
    keys = [same_text(question(row)) for row in rows]
    distinct = list(dict.fromkeys(keys))
    if not 1 <= size < len(distinct):
        raise ValueError(
            f"val_size is {size}, to be taken out of {len(distinct)} distinct training questions; "
            f"allowed: 1 to {len(distinct) - 1}."
        )
    taken = set(Random(seed).sample(distinct, size))
    rest = [row for row, key in zip(rows, keys, strict=True) if key not in taken]
    return rest, [row for row, key in zip(rows, keys, strict=True) if key in taken]


class CarvedByImage:
    """Splits of data that has train and test alone: val is some of train's images, with all their questions."""

    def __init__(self, read: Callable[[Literal["train", "test"]], list[Example]], images: int, seed: int) -> None:
        """`read` gives what the data has; `images` become val's, told apart by `metadata["image_id"]`."""
        self._read, self._images_of_rows, self._seed = read, images, seed

    def __call__(self, split: Split) -> list[Example]:
        """The examples of a split, in their order.

        Raises:
            ValueError: train has no more images than val asks for.
        """
        if split == "test":
            return self._read("test")
        train, val = self._train_val
        return train if split == "train" else val

    @cached_property
    def _train_val(self) -> tuple[list[Example], list[Example]]:
        examples = self._read("train")
        return carve_val(examples, self._images_of_rows, self._seed, lambda one: str(one.metadata["image_id"]))


def question_of(example: Example) -> str:
    """The question itself: `metadata["question"]` where a task keeps it, else the whole prompt."""
    return str(example.metadata.get("question", example.prompt))


def question_key(example: Example) -> tuple[str, tuple[LazyImage, ...]]:
    """What makes two examples the same question: its text, as `same_text` has it, and its images."""
    return same_text(question_of(example)), example.images


class DisjointSplits:
    """Splits that share no question: test stays whole, val loses what test has, train what either has.

    A split is built when it is first asked for. `limit` cuts what is handed out, after the splits are apart.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[Split], Sequence[Example]],
        limit: int | None = None,
        question: Callable[[Example], str] = question_of,
    ) -> None:
        """`name` of the task for messages, `build` gives a split as it is in the data."""
        if limit is not None and limit < 1:
            raise ValueError(f"limit of {name} is {limit}; allowed: at least 1, or null for all rows.")
        self._name, self._build, self._limit, self._question = name, build, limit, question
        self._whole: dict[Split, tuple[Example, ...]] = {}

    def __call__(self, split: Split) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            ValueError: the split is unknown, or nothing is left of it.
        """
        check_choice(f"split of {self._name}", split, SPLITS)
        return self._get(split)[: self._limit]

    def _get(self, split: Split) -> tuple[Example, ...]:
        if split not in self._whole:
            earlier: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
            seen = {same_text(self._question(one)) for other in earlier[split] for one in self._get(other)}
            rows = self._build(split)
            kept = tuple(one for one in rows if same_text(self._question(one)) not in seen)
            if not kept:
                raise ValueError(
                    f"Split {split!r} of {self._name} is empty: all of its {len(rows)} questions are also in "
                    f"{' or '.join(earlier[split]) or 'nothing else'}. Give rows that differ."
                )
            self._whole[split] = kept
        return self._whole[split]
