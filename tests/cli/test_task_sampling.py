"""`task_sampling`: what is null in a configuration is the task's own, and what is no task is refused."""

import pytest
from conftest import LetterTask
from omegaconf import OmegaConf

from t2.cli.task_sampling import task_sampling
from t2.tasks.form import Form


class Ended(LetterTask):
    form = Form(stop=["\n"])


def configured(**given):
    return OmegaConf.create({"_target_": "t2.types.Sampling", "max_new_tokens": None, "stop": None, **given})


def test_what_is_null_is_the_tasks_own_and_what_is_given_stays():
    task = Ended()
    own = task_sampling(configured(), task)
    assert (own.max_new_tokens, own.stop) == (6, ("\n",))
    given = task_sampling(configured(max_new_tokens=3, stop=[]), task, seed=7)
    assert (given.max_new_tokens, given.stop, given.seed) == (3, (), 7)


def test_a_task_without_a_form_is_refused_with_what_it_lacks(letter_task):
    class Unformed:
        name, max_new_tokens = "toy", 4
        split, score, chance = letter_task.split, letter_task.score, letter_task.chance

    with pytest.raises(ValueError, match="Unformed is no task: it lacks form"):
        task_sampling(configured(), Unformed())
