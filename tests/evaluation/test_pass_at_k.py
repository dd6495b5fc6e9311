"""pass@k against exact fractions, and counts that no run can give."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.evaluation.statistics import pass_at_k


@st.composite
def counts(draw):
    samples = draw(st.integers(1, 300))
    return samples, draw(st.integers(0, samples)), draw(st.integers(1, samples))


@given(counts())
def test_it_is_the_exact_fraction(drawn):
    samples, correct, k = drawn
    exact = 1 - Fraction(comb(samples - correct, k), comb(samples, k))
    assert pass_at_k(samples, correct, k) == pytest.approx(float(exact), abs=1e-12)


@given(counts())
def test_it_lies_between_0_and_1(drawn):
    assert 0.0 <= pass_at_k(*drawn) <= 1.0


@given(st.integers(1, 300), st.data())
def test_pass_at_1_is_the_share_of_right_answers(samples, data):
    correct = data.draw(st.integers(0, samples))
    assert pass_at_k(samples, correct, 1) == pytest.approx(correct / samples)


def test_without_a_right_answer_it_is_exactly_0():
    assert pass_at_k(10, 0, 10) == 0.0


def test_it_is_exactly_1_where_every_draw_holds_a_right_answer():
    assert pass_at_k(10, 8, 3) == 1.0


def test_large_counts_do_not_overflow():
    assert pass_at_k(100_000, 10, 1_000) == pytest.approx(1 - 0.99**10, rel=1e-3)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "message"),
    [
        (5, 1, 6, "k=6.*1 to 5"),
        (5, 1, 0, "k=0"),
        (5, 6, 1, "correct=6"),
        (5, -1, 1, "correct=-1"),
        (0, 0, 1, "samples=0"),
    ],
)
def test_impossible_counts_are_refused(samples, correct, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(samples, correct, k)
