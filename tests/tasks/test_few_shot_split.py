"""The few-shot wrapper: the paper's shuffle, both split rules, and grading left to the wrapped task."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.tasks.base import SPLITS, DocumentedTask, GradingTask, Task
from t2.tasks.digits import Digits
from t2.tasks.few_shot_split import FewShotSplit, few_shot_order
from t2.tasks.form import IN_PROMPT, Form
from t2.types import Example, Grade


class Numbered:
    """A task whose test questions are 0, 1, 2, ... unless others are given; it grades with a reason."""

    name = "numbers"
    max_new_tokens = 7
    form = Form("Reply with the number only.")

    def __init__(self, test, val=("v",)):
        self.splits = {"test": test, "val": val, "train": ("t",)}

    def chance(self, example):
        return {}

    def split(self, split):
        return tuple(Example(str(question), answer=f"!{question}") for question in self.splits[split])

    def score(self, example, text):
        return self.grade(example, text).score

    def grade(self, example, text):
        return Grade(1.0) if text == example.answer else Grade(0.0, "wrong", text)

    def about(self):
        return {"split_rule": "inner", "source": "org/numbers"}


class Plain:
    """A task that neither grades nor documents."""

    name = "plain"
    max_new_tokens = 3
    form = IN_PROMPT

    def chance(self, example):
        return {}

    def split(self, split):
        return [Example(f"{split} {number}") for number in range(9)]

    def score(self, example, text):
        return 0.25


def asked(task, split):
    return [one.prompt for one in task.split(split)]


def numbers(count):
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("n", "seed", "first"),
    [
        (5000, 27, [1795, 2979, 2402, 4693, 4779, 1055, 1926, 2712, 2370, 94]),  # MATH
        (1172, 38, [914, 1029, 70, 230, 687, 83, 26, 1021, 326, 629]),  # ARC-Challenge
        (164, 16, [100, 81, 54, 23, 35, 134, 46, 138, 55, 88]),  # HumanEval
    ],
)
def test_the_authors_indices_are_reproduced(n, seed, first):
    assert few_shot_order(n, seed)[:10] == first


@given(st.integers(0, 300), st.integers(0, 2**40))
def test_the_order_is_that_of_the_global_generator_and_leaves_it_alone(n, seed):
    before = random.getstate()
    order = few_shot_order(n, seed)
    assert random.getstate() == before
    random.seed(seed)
    expected = list(range(n))
    random.shuffle(expected)
    random.setstate(before)
    assert order == expected


@pytest.mark.parametrize("splits", ["t2", "paper"])
def test_the_support_is_the_first_of_the_shuffle(splits):
    task = FewShotSplit(Numbered(range(164)), seed=16, splits=splits)
    assert asked(task, "train") == ["100", "81", "54", "23", "35", "134", "46", "138", "55", "88"]


def test_the_papers_val_is_all_but_the_support_and_its_test_the_whole_split_in_order():
    task = FewShotSplit(Numbered(range(30)), shots=4, splits="paper")
    assert asked(task, "val") == [str(index) for index in few_shot_order(30, 0)[4:]]
    assert asked(task, "test") == numbers(30)


@given(n=st.integers(12, 40), shots=st.integers(1, 5), val_size=st.none() | st.integers(1, 5), seed=st.integers(0, 9))
def test_splits_lose_nothing_and_share_nothing(n, shots, val_size, seed):
    task = FewShotSplit(Numbered(range(n)), shots=shots, val_size=val_size, seed=seed)
    train, val, test = (asked(task, split) for split in SPLITS)
    assert (len(train), len(val)) == (shots, shots if val_size is None else val_size)
    assert sorted(train + val + test) == sorted(numbers(n))


@given(st.lists(st.sampled_from(["a", "A ", "b", "c", "d", "e  f", "E f", "g"]), min_size=1, max_size=30))
def test_a_question_that_comes_twice_stands_in_one_split_only(questions):
    try:
        task = FewShotSplit(Numbered(questions), shots=2, val_size=1)
        found = [{" ".join(prompt.split()).casefold() for prompt in asked(task, split)} for split in SPLITS]
    except ValueError:
        assert len({" ".join(question.split()).casefold() for question in questions}) <= 3
        return
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))


def test_the_split_to_cut_up_is_chosen():
    task = FewShotSplit(Numbered((), val=range(20)), split="val", shots=3)
    assert sorted(prompt for split in SPLITS for prompt in asked(task, split)) == sorted(numbers(20))


def test_nothing_is_read_before_a_split_is_asked_for():
    FewShotSplit(Numbered(()))


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (10, {}, r"takes 10 shots, 10 to validate and at least 1 to test.*'test' of numbers has 10 examples"),
        (20, {}, "has 20 examples. Lower shots or val_size"),
        (3, {"splits": "paper"}, r"takes 10 shots; .* has 3 examples"),
        (10, {"splits": "paper"}, "has 10 examples"),
    ],
)
def test_too_few_examples_are_refused(n, options, message):
    with pytest.raises(ValueError, match=message):
        FewShotSplit(Numbered(range(n)), **options).split("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "shots of few_shot_numbers is 0; allowed: at least 1"),
        ({"val_size": -1}, "val_size of few_shot_numbers is -1"),
        ({"splits": "papr"}, "Did you mean 'paper'"),
        ({"split": "tests"}, "Did you mean 'test'"),
        ({"splits": "paper", "val_size": 5}, "Leave val_size out, or take splits=t2"),
    ],
)
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        FewShotSplit(Numbered(range(30)), **options)


def test_grading_is_the_wrapped_tasks():
    task, plain = FewShotSplit(Numbered(range(30))), FewShotSplit(Plain(), shots=2)
    example = task.split("test")[0]
    assert (task.score(example, example.answer), task.score(example, "?")) == (1.0, 0.0)
    assert task.grade(example, "?") == Grade(0.0, "wrong", "?")
    assert plain.grade(plain.split("test")[0], "") == Grade(0.25)


@pytest.mark.parametrize("inner", [Numbered(range(30)), Plain()])
def test_is_a_task_that_grades_and_documents(inner):
    task = FewShotSplit(inner)
    assert isinstance(task, Task)
    assert isinstance(task, GradingTask)
    assert isinstance(task, DocumentedTask)


def test_the_name_and_the_budget_follow_the_task():
    task = FewShotSplit(Numbered(range(30)))
    assert (task.name, task.max_new_tokens) == ("few_shot_numbers", 7)
    assert FewShotSplit(Plain(), name="other").name == "other"


def test_about_describes_the_division_and_the_wrapped_task():
    own = {"split_rule": "paper", "split": "test", "shots": 10, "seed": 16}
    inner = {"name": "numbers", "split_rule": "inner", "source": "org/numbers"}
    assert FewShotSplit(Numbered(()), seed=16, splits="paper").about() == {**own, "task": inner}
    assert FewShotSplit(Plain()).about()["task"] == {"name": "plain"}


def test_one_question_about_many_images_is_many_questions():
    few = FewShotSplit(Digits("Which?"), shots=5)
    assert [len(few.split(split)) for split in SPLITS] == [5, 5, 387]
