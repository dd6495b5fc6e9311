"""Guesses that read the form of a question alone, of which several tasks take the best as their null.

Guesses that one kind of task has, such as an option at random, are in its own `chance`.
"""

from __future__ import annotations

from decimal import Decimal

from t2.grading.answers import all_numbers


def copied_numbers(question: str, gold: Decimal) -> dict[str, float]:
    """The scores of copying a number of the question, by which one is copied; one in words is not counted."""
    numbers = all_numbers(question)
    return {
        "random number of the question": numbers.count(gold) / len(numbers) if numbers else 0.0,
        "last number of the question": float(numbers[-1:] == [gold]),
        "largest number of the question": float(max(numbers, default=None) == gold),
        "smallest number of the question": float(min(numbers, default=None) == gold),
    }
