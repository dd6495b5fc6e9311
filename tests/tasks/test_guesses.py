"""Copying a number of the question: which one is copied, and questions without any."""

from decimal import Decimal

import pytest

from t2.tasks.guesses import copied_numbers


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
