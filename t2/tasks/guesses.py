"""Guesses that read the form of a question alone, of which several tasks take the best as their null.

Guesses that one kind of task has, such as an option at random, are in its own `chance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from t2.grading.answers import all_numbers, listed_items


def copied_numbers(question: str, gold: Decimal) -> dict[str, float]:
    """The scores of copying a number of the question, by which one is copied; one in words is not counted."""
    numbers = all_numbers(question)
    return {
        "random number of the question": numbers.count(gold) / len(numbers) if numbers else 0.0,
        "last number of the question": float(numbers[-1:] == [gold]),
        "largest number of the question": float(max(numbers, default=None) == gold),
        "smallest number of the question": float(min(numbers, default=None) == gold),
    }


def named_candidates(words: Sequence[str], gold: str) -> dict[str, float]:
    """The scores of naming a candidate of the question: one at random, the first, the last."""
    folded = [word.casefold() for word in words]
    return {
        "random candidate": float(gold.casefold() in folded) / len(set(folded)),
        "first candidate": float(folded[0] == gold.casefold()),
        "last candidate": float(folded[-1] == gold.casefold()),
    }


def copied_items(question: str, gold: Sequence[str]) -> dict[str, float]:
    """The scores of copying items of a list that the question ends with, or has in brackets."""
    items = listed_items(question if "[" in question else question.rstrip().rpartition("\n")[2]) or ()
    return {
        "first item": float(items[:1] == tuple(gold)),
        "random item": sum((item,) == tuple(gold) for item in items) / len(items) if items else 0.0,
        "whole list": float(items == tuple(gold)),
        "empty list": float(not gold),
    }
