"""The unit behind a number in one spelling, and words that are no unit."""

import pytest

from t2.grading.math.units import split_unit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("5 \\text{ centimeters}", ("5", "cm")), ("5cm", ("5", "cm")), ("5 cm^2", ("5", "cm2")),
        ("5 \\text{ sq in}", ("5", "in2")), ("3 \\text{ cubic feet}", ("3", "ft3")), ("5 apples", ("5", "apple")),
        ("\\frac{1}{2} \\text{ cup}", ("\\frac{1}{2}", "cup")), ("50\\%", ("50", "percent")), ("\\$5", ("5", "dollar")),
        ("90^\\circ", ("90", "degree")), ("20^\\circ \\text{C}", ("20", "c")), ("5", ("5", None)), ("5x", ("5x", None)),
        ("No solution", ("No solution", None)), ("5 or 6", ("5 or 6", None)), ("5 \\sin x", ("5 \\sin x", None)),
    ],
)  # fmt: skip
def test_split_unit(text, parts):
    assert split_unit(text) == parts
