"""MATH: grades and their reasons, symbolic comparison, and refused choices."""

import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import t2.tasks.math
from t2.types import Grade
from tests.tasks.math_cases import asked, task


def test_a_grade_says_why(symbolic):
    graded = task()
    assert graded.grade(asked("5"), r"\boxed{5.0}") == Grade(1.0, None, "5.0")
    assert symbolic.asked == []  # the cheap rules come first
    assert graded.grade(asked("5"), r"\boxed{6}") == Grade(0.0, "wrong", "6")
    assert graded.grade(asked("5"), "no idea") == Grade(0.0, "no answer", None)


def test_references_that_are_only_text_are_counted_once_each(symbolic, caplog):
    caplog.set_level(logging.INFO)
    graded = task()
    for gold, answer in ((r"\text{blue}", "red"), (r"\text{blue}", "green"), ("5", "6")):
        graded.score(asked(gold), f"\\boxed{{{answer}}}")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        r"math: 1 references so far can only be matched as text, not as expressions; the last: \text{blue}"
    ]


def test_real_expressions_are_compared():
    graded = task()
    assert graded.score(asked("(x+1)^2"), r"It is \boxed{x^2+2x+1}.") == 1.0
    assert graded.score(asked("(x+1)^2"), r"It is \boxed{x^2+2x+2}.") == 0.0


def test_a_task_travels_without_its_grader(symbolic):
    graded = task()
    graded.score(asked("5"), r"\boxed{6}")
    other = pickle.loads(pickle.dumps(graded))
    assert other.score(asked("5"), r"\boxed{5}") == 1.0
    assert other.grade(asked("5"), r"\boxed{x}").reason == "wrong"


@given(st.text() | st.from_regex(r"(\\boxed|\\fbox|The answer is:? |[{}$.\n0-9a]){0,12}", fullmatch=True))
def test_what_is_judged_stands_in_the_text(text):
    extracted = t2.tasks.math._final_answer(text)
    assert extracted is None or (extracted in text and extracted == extracted.strip() != "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test_set": "math-500"}, "Did you mean 'math500'"),
        ({"configs": ["algebra", "geometri"]}, "Did you mean 'geometry'"),
        ({"configs": []}, "configs of math is empty; give one or more of: algebra"),
    ],
)
def test_a_wrong_choice_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        task(**wrong)


def test_the_name_follows_the_test_set():
    assert [task(test_set=one).name for one in ("full", "math500")] == ["math", "math500"]
    assert task(name="algebra").name == "algebra"


def test_the_papers_grader_reads_and_compares_as_its_code_does(symbolic):
    graded = task(grader="paper")
    assert graded.about()["grader"] == "paper"
    assert graded.grade(asked("25"), "The answer is: 0.25") == Grade(1.0, None, "0.25")
    assert graded.grade(asked("5"), "The answer is: 5.\nNot \\boxed{6}") == Grade(1.0, None, "5")
    assert graded.grade(asked("(1,2)"), r"\boxed{1,2}") == Grade(1.0, None, "1,2")
    assert graded.grade(asked("5"), "the answer is 5") == Grade(0.0, "no answer", None)
    assert symbolic.asked == []
