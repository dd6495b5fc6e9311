"""Pairs of digits: answers, images that show both, and digits that stay in the split that `Digits` has them in."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
import sklearn.datasets

from t2.tasks.base import SPLITS
from t2.tasks.digit_pairs import GAP, DigitPairs
from t2.tasks.digits import Digits, digit_splits
from t2.types import Example, Grade

ASKS = ("sum", "larger")


def task(ask="sum", **changes):
    return DigitPairs(**{"ask": ask, "prompt": "?", "name": f"digits_{ask}", **changes})


def indices(example):
    return [int(index) for index in example.metadata["id"].split("-")]


@pytest.mark.parametrize(("ask", "answer"), [("sum", sum), ("larger", max)])
def test_the_answer_is_about_the_two_digits_of_the_data(ask, answer):
    target = sklearn.datasets.load_digits().target
    for one in task(ask).split("test"):
        values = [int(target[index]) for index in indices(one)]
        assert one.answer == str(answer(values))
        assert list(one.metadata["values"]) == values


@pytest.mark.parametrize("ask", ASKS)
def test_every_digit_is_of_the_split_that_digits_has_it_in(ask):
    for seed in (0, 1):
        alone = Digits("?", seed=seed)
        for split in SPLITS:
            known = {int(one.metadata["id"]) for one in alone.split(split)}
            shown = {index for one in task(ask, seed=seed).split(split) for index in indices(one)}
            assert shown <= known
            assert len(shown) > 0.5 * len(known)


def test_the_image_shows_the_left_digit_a_gap_and_the_right_digit():
    images = np.rint(sklearn.datasets.load_digits().images * 255 / 16)
    one = task(scale=1).split("test")[0]
    left, right = indices(one)
    shown = np.asarray(one.images[0].load())[:, :, 0]
    assert np.array_equal(shown[:, :8], images[left])
    assert not shown[:, 8 : 8 + GAP].any()
    assert np.array_equal(shown[:, 8 + GAP :], images[right])
    assert task(scale=4).split("test")[0].images[0].load().size == (72, 32)


def test_the_larger_of_two_equal_digits_is_never_asked_for():
    assert all(len(set(one.metadata["values"])) == 2 for split in SPLITS for one in task("larger").split(split))
    assert any(len(set(one.metadata["values"])) == 1 for one in task("sum").split("test"))


@pytest.mark.parametrize("ask", ASKS)
def test_no_pair_comes_twice_and_no_digit_is_paired_with_itself(ask):
    ids = [tuple(indices(one)) for one in task(ask, val_size=5000).split("val")]
    assert len(set(ids)) == len(ids) == 5000
    assert all(left != right for left, right in ids)


def test_both_sides_are_the_larger_about_as_often():
    left = [one.metadata["values"][0] > one.metadata["values"][1] for one in task("larger").split("train")]
    assert 0.45 < sum(left) / len(left) < 0.55


@pytest.mark.parametrize(("ask", "share"), [("sum", 0.105), ("larger", 0.193)])
def test_the_share_of_the_most_frequent_answer_is_as_the_conf_says(ask, share):
    counts = Counter(one.answer for one in task(ask).split("test"))
    assert round(counts.most_common(1)[0][1] / counts.total(), 3) == pytest.approx(share, abs=5e-4)


def test_sizes_are_those_asked_for_and_more_test_begins_with_less():
    assert [len(task(train_size=7, val_size=5, test_size=3).split(split)) for split in SPLITS] == [7, 5, 3]
    grown = [task(test_size=size).split("test") for size in (10, 20, 40)]
    assert all(list(longer[: len(shorter)]) == list(shorter) for shorter, longer in pairwise(grown))


def with_few_digits(ask, size):
    one = task(ask, val_size=size, test_size=1)
    one.__dict__["_digits"] = {split: digits[:9] for split, digits in digit_splits(0).items()}
    return one


@pytest.mark.parametrize("ask", ASKS)
def test_all_pairs_can_be_had_and_not_one_more(ask):
    values = [digit.value for digit in digit_splits(0)["val"][:9]]
    possible = sum(ask == "sum" or left != right for left, right in permutations(values, 2))
    assert len(with_few_digits(ask, possible).split("val")) == possible
    with pytest.raises(ValueError, match=rf"val_size of digits_{ask} is {possible + 1}; there are {possible} pairs"):
        with_few_digits(ask, possible + 1).split("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ask": "sums"}, "Did you mean 'sum'"),
        ({"val_size": 0}, "val_size of digits_sum is 0; allowed: at least 1"),
        ({"scale": 0}, "scale of digits_sum is 0"),
    ],
)
def test_values_that_mean_nothing_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**{"ask": "sum", "name": "digits_sum", **changes})


@pytest.mark.parametrize(
    ("ask", "gold", "text", "grade"),
    [
        ("sum", "12", "12", Grade(1.0, None, "12")),
        ("sum", "12", "3 + 9 = 12", Grade(1.0, None, "12")),
        ("sum", "12", "13", Grade(0.0, "wrong", "13")),
        ("sum", "12", "twelve", Grade(0.0, "no answer")),
        ("both", "3 and 9", "3 and 9", Grade(1.0, None, "3 and 9")),
        ("both", "3 and 9", "A 3, then a 9.", Grade(1.0, None, "3 and 9")),
        ("both", "3 and 9", "9 and 3", Grade(0.0, "wrong", "9 and 3")),
        ("both", "3 and 9", "39", Grade(0.0, "no answer")),
        ("both", "3 and 9", "", Grade(0.0, "no answer")),
    ],
)
def test_the_final_number_counts_or_the_first_two_in_their_order(ask, gold, text, grade):
    assert task(ask).grade(Example("?", gold), text) == grade
    assert task(ask).score(Example("?", gold), text) == grade.score


def test_both_digits_are_those_of_the_image():
    assert all(one.answer == "{} and {}".format(*one.metadata["values"]) for one in task("both").split("val"))


def test_about_describes_what_was_read():
    one = task("larger", seed=3)
    one.split("test")
    about = one.about()
    assert (about["ask"], about["seed"], about["splits"]["test"]["rows"]) == ("larger", 3, 400)
