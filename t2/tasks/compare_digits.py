"""The largest or smallest of several numbers, all written in the same plain digits.

The questions are those of reasoning-gym's `number_format` with its numbers rounded and written alike. As they come,
they measure little: the numbers of one question are written in three ways ("427.458000", "91,585,693.041",
"4.274579999999999700e+02"), and the gold answer is a float such as 427.45799999999997.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from pydantic import NonNegativeInt

from t2.grading.answers import all_numbers, last_number
from t2.tasks.form import Form
from t2.tasks.procedural import Procedural
from t2.types import Example

_LISTED = re.compile(r"candidates: (.*)")


class CompareDigits(Procedural):
    """Scores a completion 1.0 if its last number is the largest or smallest candidate, whichever was asked for."""

    def __init__(
        self,
        name: str,
        form: Form,
        decimals: NonNegativeInt = 0,
        relative_tolerance: float = 1e-9,
        **options: Any,
    ) -> None:
        """Configures the task. No question is generated yet.

        Args:
            name: name of the task.
            form: how an answer is to look.
            decimals: digits after the point of every candidate.
            relative_tolerance: difference from the gold answer, as a share of it, up to which a number is right.
            options: as for `t2.tasks.procedural.Procedural`; `config` has the options of `number_format`, of which
                `max_delta` is by how much a candidate may differ from the first that is drawn.

        Raises:
            ModuleNotFoundError: reasoning-gym is not installed.
            ValueError: an option is unknown, its value is not allowed, or the tolerance could take a candidate for
                another.
        """
        if not 0 <= relative_tolerance < 1e-6:
            raise ValueError(
                f"relative_tolerance of {name} is {relative_tolerance}; allowed: 0 or above and below 1e-6, so that no "
                "candidate counts as its neighbor."
            )
        self._decimals, self._tolerance = decimals, Decimal(str(relative_tolerance))
        super().__init__("number_format", name, form, **options)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the last number of `text` is the gold answer within the tolerance, else 0.0."""
        number, gold = last_number(text), Decimal(str(example.answer))
        margin = abs(gold) * self._tolerance
        return float(number is not None and gold - margin <= number <= gold + margin)

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the scores of guesses that copy one of the candidates."""
        listed = _candidates(str(example.metadata["question"]))
        right = [one == Decimal(str(example.answer)) for one in listed]
        return {
            "random candidate": sum(right) / len(right),
            "first candidate": float(right[0]),
            "last candidate": float(right[-1]),
        }

    def _source(self, split: Any) -> Sequence[Mapping[str, Any]]:
        return _PlainDigits(super()._source(split), self._decimals)


class _PlainDigits(Sequence[Mapping[str, Any]]):
    """The items of `number_format` with distinct, shuffled candidates, the gold answer among them."""

    def __init__(self, items: Sequence[Mapping[str, Any]], decimals: int) -> None:
        self._items, self._decimals = items, decimals

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        item = self._items[index]
        unit = Decimal(1).scaleb(-self._decimals)
        numbers: list[Decimal] = []
        for candidate in item["metadata"]["candidates"]:
            number = Decimal(candidate).quantize(unit)
            while number in numbers:  # rounded to the same
                number += unit
            numbers.append(number)
        Random(item["question"]).shuffle(numbers)  # reasoning-gym's first is in the middle of the others
        pick = max if item["metadata"]["size"] == "largest" else min
        listed = " ".join(map(str, numbers))
        question = _LISTED.sub(f"candidates: {listed}", item["question"])
        return {"question": question, "answer": str(pick(numbers))}


def _candidates(question: str) -> list[Decimal]:
    listed = _LISTED.search(question)
    return all_numbers(listed[1]) if listed else []
