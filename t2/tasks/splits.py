"""Building disjoint splits: carving a validation split out of train, and dropping questions that two splits share.

Rows are read by `t2.tasks.row_source`. Nothing here depends on the columns of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Literal, TypeVar

from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.types import Example, LazyImage

Item = TypeVar("Item")

# `paper`: the indices of the paper authors' code (SakanaAI/self-adaptive-llms, commit 03a41ae), to compare with its
# numbers. Prompts and grading are the same for both.
SplitRule = Literal["t2", "paper"]

# The splits that a split must share no question with, and which are built before it.
EARLIER_SPLITS: Mapping[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}


def same_text(question: str) -> str:
    """Normalizes a question for comparison: case and runs of white space are ignored."""
    return " ".join(question.split()).casefold()


def carve_val(
    rows: Sequence[Item],
    size: int,
    seed: int,
    question: Callable[[Item], str],
    key: str = "val_size",
    things: str = "training questions",
) -> tuple[list[Item], list[Item]]:
    """Splits rows into train and val by sampling `size` distinct questions for val, each with all its rows.

    `key` is the option that gave the size, and `things` are what it counts, for messages.

    Returns:
        Train and val, each in the order of `rows`.

    Raises:
        ValueError: `size` is below 1, or not below the number of distinct questions.
    """
    keys = [same_text(question(row)) for row in rows]
    distinct = list(dict.fromkeys(keys))
    if not 1 <= size < len(distinct):
        allowed = f"allowed: 1 to {len(distinct) - 1}." if len(distinct) > 1 else "give more rows."
        raise ValueError(f"{key} is {size}, to be taken out of {len(distinct)} distinct {things}; {allowed}")
    taken = set(Random(seed).sample(distinct, size))
    rest = [row for row, key in zip(rows, keys, strict=True) if key not in taken]
    return rest, [row for row, key in zip(rows, keys, strict=True) if key in taken]


class ValByImage:
    """Builds the splits of a data set without val: some images of train, with all their questions, become val."""

    def __init__(self, read: Callable[[Literal["train", "test"]], list[Example]], val_images: int, seed: int) -> None:
        """Stores the reader. Nothing is read yet.

        Args:
            read: returns the examples of a split of the data set.
            val_images: number of images in val, told apart by `metadata["image_id"]`.
            seed: seed of the sample.
        """
        self._read, self._val_images, self._seed = read, val_images, seed

    def __call__(self, split: Split) -> list[Example]:
        """Returns the examples of a split in the order of the data set.

        Raises:
            ValueError: train has no more than `val_images` images.
        """
        if split == "test":
            return self._read("test")
        train, val = self._train_val
        return train if split == "train" else val

    @cached_property
    def _train_val(self) -> tuple[list[Example], list[Example]]:
        examples = self._read("train")
        return carve_val(
            examples, self._val_images, self._seed, lambda one: str(one.metadata["image_id"]), "val_images", "images"
        )


def question_of(example: Example) -> str:
    """Returns `metadata["question"]` where a task sets it, else the whole prompt."""
    return str(example.metadata.get("question", example.prompt))


def question_key(example: Example) -> tuple[str, tuple[LazyImage, ...]]:
    """Returns a key that is equal for two examples with the same images and the same text by `same_text`."""
    return same_text(question_of(example)), example.images


class DisjointSplits:
    """Removes from each split the questions of the splits before it, in the order test, val, train.

    A split is built when it is first requested. `limit` truncates a split after questions were removed.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[Split], Sequence[Example]],
        limit: int | None = None,
        question: Callable[[Example], str] = question_of,
    ) -> None:
        """Stores how splits are built.

        Args:
            name: name of the task, for messages.
            build: returns the examples of a split, which may share questions with other splits.
            limit: maximum number of examples in a split; None for all.
            question: returns the text that two examples of one question share.

        Raises:
            ValueError: `limit` is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit of {name} is {limit}; allowed: at least 1, or null for all rows.")
        self._name, self._build, self._limit, self._question = name, build, limit, question
        self._whole: dict[Split, tuple[Example, ...]] = {}

    def __call__(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split.

        Raises:
            ValueError: the split is unknown, or no example is left.
        """
        check_choice(f"split of {self._name}", split, SPLITS)
        return self._get(split)[: self._limit]

    def _get(self, split: Split) -> tuple[Example, ...]:
        if split not in self._whole:
            earlier = EARLIER_SPLITS[split]
            seen = {same_text(self._question(one)) for other in earlier for one in self._get(other)}
            rows = self._build(split)
            kept = tuple(one for one in rows if same_text(self._question(one)) not in seen)
            if not kept:
                raise ValueError(
                    f"Split {split!r} of {self._name} is empty: all of its {len(rows)} questions are also in "
                    f"{' or '.join(earlier) or 'nothing else'}. Give rows that differ."
                )
            self._whole[split] = kept
        return self._whole[split]
