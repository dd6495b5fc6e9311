"""Exactness of rationals, and the tolerance of decimals on both of its sides."""

from fractions import Fraction

import pytest

from t2.grading.math.number import Number, equal, number


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1.5000000", "1.5000014", True), ("1.5000000", "1.5000016", False),  # 1e-6 of 1.5 is 0.0000015
        ("0.000000150", "0.000000151", False), ("1.0", "0.9999999", False), ("0.0", "0.0000001", False),
        ("0.333333", "1/3", False), ("1/3", "0.333333", False), ("0.25", "1/4", True), ("-0.5", "0.5", False),
    ],
)  # fmt: skip
def test_equality(gold, answer, same):
    assert equal(number(gold), number(answer)) == same


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1/0", "\\frac{1}{0}", "1e999", "10^{99999}", "1,2", "9" * 200, "x", "2\\frac{3}{2}"]
)
def test_no_number(text):
    assert number(text) is None


def test_only_a_decimal_that_is_no_integer_is_inexact():
    assert number("0.5") == Number(Fraction(1, 2), is_decimal=True)
    assert number("5.0") == number("5") == number("500e-2") == Number(Fraction(5))
