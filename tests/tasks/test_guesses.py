"""Copying a number of the question: which one is copied, and questions without any."""

from decimal import Decimal

import pytest

from t2.tasks.guesses import copied_items, copied_numbers, named_candidates


@pytest.mark.parametrize(
    ("question", "gold", "scores"),
    [
        ("7 and 2, 2 and 5", Decimal(2), [0.5, 0.0, 0.0, 1.0]),
        ("7 and 2, 2 and 5", Decimal(5), [0.25, 1.0, 0.0, 0.0]),
        ("7 and 2", Decimal("7.0"), [0.5, 0.0, 1.0, 0.0]),
        ("two and 3", Decimal(2), [0.0, 0.0, 0.0, 0.0]),
        ("none", Decimal(2), [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_score_is_that_of_the_number_that_is_copied(question, gold, scores):
    names = [f"{which} number of the question" for which in ("random", "last", "largest", "smallest")]
    assert copied_numbers(question, gold) == dict(zip(names, scores, strict=True))


@pytest.mark.parametrize(
    ("gold", "scores"), [("Bo", [0.5, 0.0, 0.0]), ("ann", [0.5, 1.0, 1.0]), ("Cy", [0.0, 0.0, 0.0])]
)
def test_a_candidate_is_named_at_random_or_by_its_place(gold, scores):
    assert list(named_candidates(["Ann", "Bo", "ANN"], gold).values()) == scores


@pytest.mark.parametrize(
    ("question", "gold", "scores"),
    [
        ("Keep [x] in this list: ['4', '40']\nAs a list.", ["4"], [1.0, 0.5, 0.0, 0.0]),
        ("Keep in this list: ['4', '40']", ["4", "40"], [0.0, 0.0, 1.0, 0.0]),
        ("Keep in this list: ['4', '40']", [], [0.0, 0.0, 0.0, 1.0]),
        ("One, two.\nReverse this list: a, b, a\n", ["a", "b", "a"], [0.0, 0.0, 1.0, 0.0]),
    ],
)
def test_items_of_a_list_are_copied(question, gold, scores):
    names = ("first item", "random item", "whole list", "empty list")
    assert copied_items(question, gold) == dict(zip(names, scores, strict=True))
