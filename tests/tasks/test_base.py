"""`grade`: the check of every score, for tasks that give reasons and tasks that only score."""

import numpy as np
import pytest

from t2.tasks.base import check_task, grade, greedy
from t2.tasks.form import Form
from t2.types import Example, Grade, Sampling

EXAMPLE = Example("What is 1 + 1?", answer="2")


class Scored:
    """A task that returns a given score."""

    name, max_new_tokens = "toy", 4

    def __init__(self, score):
        self._score = score

    def split(self, split):
        return [EXAMPLE]

    def score(self, example, text):
        return self._score


class Graded(Scored):
    """A task that returns it with a reason."""

    def grade(self, example, text):
        return Grade(self._score, "wrong", text)


def test_greedy_decoding_ends_where_the_task_says():
    task = Scored(1.0)
    task.form = Form(stop=["\n"])
    assert greedy(task) == Sampling(max_new_tokens=4, stop=("\n",), samples=1, temperature=0.0)


@pytest.mark.parametrize("score", [0.0, 0.25, 1.0, 1, True, np.float32(0.5)])
def test_a_score_becomes_a_float_and_the_rest_stays(score):
    assert grade(Scored(score), EXAMPLE, "3") == Grade(float(score))
    assert grade(Graded(score), EXAMPLE, "3") == Grade(float(score), "wrong", "3")
    assert type(grade(Graded(score), EXAMPLE, "3").score) is float


@pytest.mark.parametrize("score", [-0.001, 1.001, float("nan"), float("inf"), None, "1.0"])
@pytest.mark.parametrize("task", [Scored, Graded])
def test_any_other_score_is_refused_with_the_task_the_example_and_the_text(task, score):
    message = rf"Task toy scored {score!r} for the example 'What is 1 \+ 1\?', completion 'three'; allowed: .* 0 to 1"
    with pytest.raises(ValueError, match=message):
        grade(task(score), EXAMPLE, "three")


def test_a_task_without_a_form_or_a_chance_is_refused():
    with pytest.raises(ValueError, match=r"Scored is no task: it lacks chance, form"):
        check_task(Scored(1.0))
