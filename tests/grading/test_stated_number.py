"""The number that a text states, beyond the table: every spelling is read back, and no text raises or stalls."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.stated_number import stated_number

PIECES = ["the answer is ", "answer: ", "not ", "####", "\\boxed{", "}", "\\frac{", "{", "1", "23", "000", "1,080", " "]
PIECES += [
    "= ",
    "/",
    "0",
    "e",
    "9" * 400,
    " million",
    "ten ",
    "hundred ",
    "k",
    "$",
    "-",
    "−",
    "%",
    "\n",
    "(",
    ")",
    "^",
    "²",
]
JUNK = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
FORMS = ["#### {}", "\\boxed{{{}}} of 7", "The answer is {} (7 in all).", "So it is {}.", "1 + 1 = {}"]


@given(number=st.integers(-(10**9), 10**9), form=st.sampled_from(FORMS), separator=st.sampled_from(["", ",", " ", "'"]))
def test_every_integer_is_read_back_with_and_without_separators(number, form, separator):
    assert stated_number(form.format(f"{number:,}".replace(",", separator))) == number


@given(number=st.fractions(min_value=0, max_value=1000, max_denominator=99), form=st.sampled_from(FORMS))
def test_every_fraction_is_read_back(number, form):
    assert stated_number(form.format(f"{number.numerator}/{number.denominator}")) == number


@given(JUNK)
def test_no_text_makes_it_raise(text):
    assert isinstance(stated_number(text), Fraction | None)


def test_a_number_that_cannot_be_meant_is_none():
    assert stated_number("The answer is 1/0") is None
    assert stated_number("The answer is 1e999999999") is None
    assert stated_number("9" * 5000) is None


@pytest.mark.parametrize(
    "piece", ["1,", "111,", "11,11,", "1 000 ", "answer is ", "answer is 5 ", "(a", "one ", "5 = "]
)
def test_time_is_linear(piece):
    start = time.process_time()
    stated_number(piece * 20_000 + "x")
    assert time.process_time() - start < 5.0  # quadratic time would take minutes
