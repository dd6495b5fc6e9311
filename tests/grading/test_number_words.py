"""Numbers in words, and what looks like one and is none."""

import pytest

from t2.grading.number_words import number_of_words


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("zero", 0), ("Nineteen", 19), ("forty-two", 42), ("one hundred", 100), ("a hundred", None), ("hundred", 100),
        ("three hundred and five", 305), ("two thousand", 2000), ("one million two hundred thousand", 1_200_000),
        ("minus five", -5), ("five five", None), ("twenty eleven", None), ("five apples", None), ("and", None),
        ("", None), ("one " * 100, None), ("hundred hundred", None),
    ],
)  # fmt: skip
def test_number_of_words(text, number):
    assert number_of_words(text) == number
