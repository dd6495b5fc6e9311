"""Comparing plain digits: one way of writing, a gold answer among the candidates, a tolerance, guesses that copy."""

import re

import pytest

from t2.tasks.compare_digits import CompareDigits
from t2.tasks.form import IN_PROMPT
from t2.types import Example

SMALL = {"train_size": 30, "val_size": 10, "test_size": 40}
CONFIG = {"min_num_candidates": 4, "max_num_candidates": 4, "min_n": 100, "max_n": 999, "max_delta": 3}


def task(**changes):
    return CompareDigits("digits", IN_PROMPT, **{**SMALL, "config": CONFIG, **changes})


def listed(example):
    return re.search(r"candidates: (.*)", example.prompt)[1].split(" ")


@pytest.mark.parametrize(("decimals", "written"), [(0, r"\d+"), (2, r"\d+\.\d\d")])
def test_candidates_are_different_and_written_alike_and_the_gold_answer_is_one_of_them(decimals, written):
    for one in task(decimals=decimals).split("test"):
        candidates = listed(one)
        assert len(set(candidates)) == 4  # of 7 whole numbers at most, which round to the same ones often
        assert all(re.fullmatch(written, text) for text in candidates)
        pick = max if "pick the largest number" in one.prompt else min
        assert one.answer == pick(candidates, key=float)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1234", 1), ("It is 1,234.", 1), ("1.234e+03", 1), ("1234.000000001", 1), ("1234.00001", 0), ("1235", 0),
        ("1234 or 1235", 0), ("-1234", 0), ("", 0), ("9" * 5000, 0), ("9e999", 0),
    ],
)  # fmt: skip
def test_a_number_is_right_within_the_tolerance_however_it_is_written(text, score):
    assert task().score(Example("q", "1234"), text) == score


def test_without_tolerance_only_the_number_itself_is_right():
    assert task(relative_tolerance=0).score(Example("q", "1234"), "1234.000000001") == 0.0
    with pytest.raises(ValueError, match=r"relative_tolerance of digits is 0\.01; allowed"):
        task(relative_tolerance=0.01)


def test_the_gold_answer_is_as_often_first_as_elsewhere():
    where = [listed(one).index(one.answer) for one in task(test_size=400).split("test")]
    assert all(80 <= where.count(position) <= 120 for position in range(4))


def test_the_chances_are_those_of_copying_a_candidate():
    for one in task().split("test"):
        candidates = listed(one)
        assert task().chance(one) == {
            "random candidate": 0.25,
            "first candidate": float(candidates[0] == one.answer),
            "last candidate": float(candidates[-1] == one.answer),
        }
