"""Handwritten digits: 1,797 images of 8 x 8 gray values, from scikit-learn's `load_digits` (extra `vision`, BSD).

A small vision task that needs no hub. Splits are stratified by digit, are the same for every task with the same seed,
and share no image: of equal images (scikit-learn 1.9 has none) the first is kept. Images are enlarged by repeating
pixels; any other resizing is left to the processor of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from pydantic import PositiveInt

from t2.grading.answers import final_number, last_number
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.splits import DisjointSplits
from t2.types import Example, Grade, PixelImage

TRAIN, VAL = 1200, 200  # the remaining 397 images are test
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class Digit:
    """An image (8, 8) of gray values from 0 (black) to 255, its digit, and its index in the data set."""

    index: int
    pixels: Pixels
    value: int


class Digits:
    """Asks for the digit in an image; scores a completion 1.0 if its final number is the digit."""

    form = IN_PROMPT

    def __init__(
        self,
        prompt: str,
        name: str = "digits",
        scale: int = 4,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 8,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            prompt: the question, the same for every image.
            name: name of the task.
            scale: factor by which images are enlarged, to 8 `scale` x 8 `scale` pixels.
            seed: seed of the splits.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.

        Raises:
            ModuleNotFoundError: scikit-learn is not installed.
            ValueError: `scale` is below 1.
        """
        check_digits(name, scale)
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._prompt, self._scale, self._seed = prompt, scale, seed
        self._read: dict[Split, list[Example]] = {}
        self._splits = DisjointSplits(name, self._build, limit, lambda one: str(one.metadata["id"]))

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["groups"]["digit"]` is the digit."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the final number of `text` is the digit, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the score; the reason is `wrong`, or `no answer` for a text without a number."""
        return grade_number(str(example.answer), text)

    def about(self) -> dict[str, Any]:
        """Describes the seed, and the source, version and fingerprints of the splits built so far."""
        return {"seed": self._seed, **describe_digits(self._read)}

    def _build(self, split: Split) -> list[Example]:
        self._read[split] = [
            Example(
                self._prompt,
                str(digit.value),
                metadata={"id": str(digit.index), "groups": {"digit": str(digit.value)}},
                images=(enlarged(digit.pixels, self._scale),),
            )
            for digit in self._digits[split]
        ]
        return self._read[split]

    @cached_property
    def _digits(self) -> Mapping[Split, Sequence[Digit]]:
        return digit_splits(self._seed)


def check_digits(task: str, scale: int) -> None:
    """Checks what can be checked before the data is read.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: `scale` is below 1.
    """
    if find_spec("sklearn") is None:
        raise ModuleNotFoundError(
            f'The task {task!r} needs scikit-learn: pip install "transformer2[vision]"', name="sklearn"
        )
    if scale < 1:
        raise ValueError(f"scale of {task} is {scale}; allowed: at least 1.")


def digit_splits(seed: int) -> Mapping[Split, Sequence[Digit]]:
    """Returns the digits of each split in random order, stratified by digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    gray = np.rint(data.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 17 levels
    distinct = {pixels.tobytes(): index for index, pixels in reversed(list(enumerate(gray)))}
    digits = [Digit(index, gray[index], int(data.target[index])) for index in sorted(distinct.values())]
    train, rest = train_test_split(
        digits, train_size=TRAIN, stratify=[digit.value for digit in digits], random_state=seed
    )
    val, test = train_test_split(rest, train_size=VAL, stratify=[digit.value for digit in rest], random_state=seed)
    return {"train": train, "val": val, "test": test}


def enlarged(pixels: Pixels, scale: int) -> PixelImage:
    """Enlarges an image by repeating each pixel `scale` times in both directions."""
    return PixelImage.of(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def grade_number(gold: str, text: str) -> Grade:
    """Grades a completion 1.0 if its final number, the marked or else the last one, equals the gold answer."""
    number = final_number(text)
    if number is None:
        return Grade(0.0, "no answer")
    return Grade(1.0, None, str(number)) if number == last_number(gold) else Grade(0.0, "wrong", str(number))


def describe_digits(read: Mapping[Split, Sequence[Example]]) -> dict[str, Any]:
    """Describes the source and version of the data, and the rows and fingerprints of `read`, in plain JSON values."""
    return {
        "source": "scikit-learn load_digits",
        "config": None,
        "version": version("scikit-learn"),
        "splits": {
            split: {"rows": len(examples), "fingerprint": _fingerprint(examples)}
            for split, examples in sorted(read.items())
        },
    }


def _fingerprint(examples: Sequence[Example]) -> str:
    content = hashlib.sha256()
    for example in examples:
        content.update(f"{example.prompt}\0{example.answer}\0".encode())
        for image in example.images:
            content.update(image.load().tobytes())
    return content.hexdigest()
