"""Splits that share no question, and the checks that tasks have in common."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.run.messages import check_choice
from t2.tasks.splits import DisjointSplits, carve_val, same_text
from t2.types import Example


def test_a_wrong_choice_lists_the_allowed_ones():
    with pytest.raises(ValueError, match=r"splits is 'papr'; allowed: paper, t2. Did you mean 'paper'"):
        check_choice("splits", "papr", ("t2", "paper"))


@given(st.lists(st.sampled_from("abcdefABC "), min_size=1), st.integers(1, 5), st.integers(0, 3))
def test_carving_loses_nothing_and_shares_nothing(rows, size, seed):
    if size >= len({same_text(row) for row in rows}):
        with pytest.raises(ValueError, match="val_size"):
            carve_val(rows, size, seed, str)
        return
    train, val = carve_val(rows, size, seed, str)
    assert sorted(train + val) == sorted(rows)
    assert len({same_text(row) for row in val}) == size
    assert not {same_text(row) for row in train} & {same_text(row) for row in val}


def test_carving_depends_on_the_seed_alone():
    rows = [str(number) for number in range(100)]
    assert carve_val(rows, 10, 0, str) == carve_val(rows, 10, 0, str)
    assert carve_val(rows, 10, 0, str) != carve_val(rows, 10, 1, str)


def splits(limit=None, **prompts):
    built = []

    def build(split):
        built.append(split)
        return [Example(prompt) for prompt in prompts[split].split(",")]

    return DisjointSplits("toy", build, limit), built


def test_test_wins_over_val_and_val_over_train():
    get, _ = splits(train="a,b,c", val="b,c,e", test="c,d")
    assert [[one.prompt for one in get(split)] for split in ("train", "val", "test")] == [
        ["a"],
        ["b", "e"],
        ["c", "d"],
    ]


def test_case_and_white_space_do_not_make_a_question_new():
    get, _ = splits(train="a  B ,c", val="x", test="A b")
    assert [one.prompt for one in get("train")] == ["c"]


def test_the_question_in_the_metadata_decides():
    rows = {"train": "p1", "val": "p2", "test": "p3"}
    get = DisjointSplits("toy", lambda split: [Example(rows[split], metadata={"question": "same"})])
    assert len(get("test")) == 1
    with pytest.raises(ValueError, match="'val' of toy is empty"):
        get("val")


def test_the_test_split_needs_no_other_rows():
    get, built = splits(test="a")
    assert len(get("test")) == 1
    assert built == ["test"]


def test_each_split_is_built_once():
    get, built = splits(train="a", val="b", test="c")
    for split in ("train", "val", "test", "train"):
        get(split)
    assert sorted(built) == ["test", "train", "val"]


def test_a_limit_cuts_after_the_splits_are_apart():
    get, _ = splits(limit=1, train="b,a,c", val="x,y", test="d,b")
    assert [one.prompt for one in get("train")] == ["a"]
    assert [one.prompt for one in get("test")] == ["d"]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit of toy is 0; allowed: at least 1"):
        splits(limit=0)
