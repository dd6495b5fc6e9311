"""Two handwritten digits side by side, and a question about both: what they are, their sum, or which is larger.

A vision task to evaluate experts on that were trained on `t2.tasks.digits`. The digits of a split are those of the same
split of `Digits` with the same seed, so that no test digit was trained on. `ask="larger"` never shows two equal digits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

import numpy as np
from pydantic import PositiveInt

from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.digits import Digit, check_digits, describe_digits, digit_splits, enlarged, grade_number
from t2.tasks.form import IN_PROMPT
from t2.tasks.splits import DisjointSplits
from t2.types import Example, Grade

Ask = Literal["both", "sum", "larger"]

GAP = 2  # black columns between the two digits


class DigitPairs:
    """Asks for both, the sum or the larger of two digits; compares a completion's final number or first two numbers."""

    form = IN_PROMPT

    def __init__(
        self,
        ask: Ask,
        prompt: str,
        name: str,
        train_size: int = 2000,
        val_size: int = 200,
        test_size: int = 400,
        scale: int = 4,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 8,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            ask: the question: `both`, `sum` or `larger`.
            prompt: its wording, the same for every image.
            name: name of the task.
            train_size: number of distinct pairs; likewise `val_size` and `test_size`.
            val_size: see `train_size`.
            test_size: see `train_size`.
            scale: factor by which images are enlarged, to 18 `scale` x 8 `scale` pixels.
            seed: seed of the splits and the pairs.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.

        Raises:
            ModuleNotFoundError: scikit-learn is not installed.
            ValueError: `ask` is unknown, or a size or `scale` is below 1.
        """
        check_choice(f"ask of {name}", ask, get_args(Ask))
        check_digits(name, scale)
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._ask, self._prompt, self._scale, self._seed = ask, prompt, scale, seed
        self._sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        for split, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"{split}_size of {name} is {size}; allowed: at least 1.")
        self._read: dict[Split, list[Example]] = {}
        self._splits = DisjointSplits(name, self._build, limit, lambda one: str(one.metadata["id"]))

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["values"]` are the two digits.

        Raises:
            ValueError: the split is unknown, or its size exceeds the number of pairs.
        """
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if `text` gives the answer, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the score; the reason is `wrong`, or `no answer` for a text with too few numbers."""
        if self._ask != "both":
            return grade_number(str(example.answer), text)
        numbers = re.findall(r"\d+", text)
        if len(numbers) < 2:
            return Grade(0.0, "no answer")
        found = " and ".join(numbers[:2])
        return Grade(1.0, None, found) if found == example.answer else Grade(0.0, "wrong", found)

    def about(self) -> dict[str, Any]:
        """Describes the question, and the source, version and fingerprints of the splits built so far."""
        return {"ask": self._ask, "seed": self._seed, **describe_digits(self._read)}

    def _build(self, split: Split) -> list[Example]:
        self._read[split] = [self._example(left, right) for left, right in self._pairs(split)]
        return self._read[split]

    def _pairs(self, split: Split) -> list[tuple[Digit, Digit]]:
        digits, wanted = self._digits[split], self._sizes[split]
        possible = self._possible(digits)
        if wanted > possible:
            raise ValueError(f"{split}_size of {self.name} is {wanted}; there are {possible} pairs. Lower it.")
        draw = Random(self._seed * len(SPLITS) + SPLITS.index(split))
        pairs: dict[tuple[int, int], tuple[Digit, Digit]] = {}
        while len(pairs) < wanted:
            left, right = draw.sample(digits, 2)
            if self._ask != "larger" or left.value != right.value:
                pairs.setdefault((left.index, right.index), (left, right))
        return list(pairs.values())

    def _possible(self, digits: Sequence[Digit]) -> int:
        ordered = len(digits) * (len(digits) - 1)
        counts = Counter(digit.value for digit in digits).values()
        return ordered - (sum(count * (count - 1) for count in counts) if self._ask == "larger" else 0)

    def _example(self, left: Digit, right: Digit) -> Example:
        gap = np.zeros((left.pixels.shape[0], GAP), dtype=np.uint8)
        values = (left.value, right.value)
        return Example(
            self._prompt,
            _answer(self._ask, left.value, right.value),
            metadata={"id": f"{left.index}-{right.index}", "values": values},
            images=(enlarged(np.hstack([left.pixels, gap, right.pixels]), self._scale),),
        )

    @cached_property
    def _digits(self) -> Mapping[Split, Sequence[Digit]]:
        return digit_splits(self._seed)


def _answer(ask: Ask, left: int, right: int) -> str:
    answers = {"both": f"{left} and {right}", "sum": str(left + right), "larger": str(max(left, right))}
    return answers[ask]
