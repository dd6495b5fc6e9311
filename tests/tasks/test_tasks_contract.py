"""What every task promises, checked for each file of conf/task.

A new task joins by its YAML. One that reads rows (`data_files`) brings a few in tests/tasks/rows/NAME/, one
JSONL file per split, and an overrides.yaml there if its default sizes need more rows than that. A task that others
are nested in by its defaults list (`/task@PLACE: NAME`) gets their rows, and its own overrides.yaml.
"""

import json
import random
from functools import cache, lru_cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from t2.tasks.base import SPLITS, DocumentedTask, Task, grade

CONF = Path(__file__).parents[2] / "conf"
ROWS = Path(__file__).parent / "rows"
NAMES = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))

pytestmark = pytest.mark.parametrize("name", NAMES, scope="module")  # one task after the other


def build(name):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+task={name}"]).task
    OmegaConf.set_struct(config, False)  # an overrides.yaml may name an argument that the YAML leaves at its default
    return instantiate(with_rows(config, name))


def with_rows(config, name):
    """The config with rows of the tests, for itself and for the tasks nested in it."""
    if "data_files" in config:
        files = {path.stem: str(path) for path in (ROWS / name).glob("*.jsonl")}
        assert files, f"conf/task/{name}.yaml reads rows; put a few into {ROWS / name}/SPLIT.jsonl"
        config.data_files = files
    for entry in OmegaConf.load(CONF / "task" / f"{name}.yaml").get("defaults", []):
        if "@" in str(entry):
            ((place, choice),) = entry.items()
            place = place.partition("@")[2]
            OmegaConf.update(config, place, with_rows(OmegaConf.select(config, place), choice), merge=False)
    overrides = ROWS / name / "overrides.yaml"
    return OmegaConf.merge(config, OmegaConf.load(overrides)) if overrides.exists() else config


@lru_cache(maxsize=1)  # data sets of tens of thousands of rows would slow down whatever runs after them
def shared(name):
    return build(name)


def test_is_a_task_named_after_its_file(name):
    assert isinstance(shared(name), Task)
    assert shared(name).name == name


def test_states_an_answer_budget(name):
    assert shared(name).max_new_tokens >= 1


def test_no_split_is_empty(name):
    assert all(len(shared(name).split(split)) > 0 for split in SPLITS)


def test_no_prompt_stands_in_two_splits(name):
    seen = cache(lambda image: image.load().tobytes())  # the same question may be asked of many images
    train, val, test = ({(one.prompt, *map(seen, one.images)) for one in shared(name).split(split)} for split in SPLITS)
    assert not train & val
    assert not train & test
    assert not val & test


def test_an_unknown_split_is_refused_with_a_hint(name):
    with pytest.raises(ValueError, match="Did you mean 'test'"):
        shared(name).split("tests")


def test_another_instance_has_the_same_examples(name):
    other = build(name)
    assert all(list(other.split(split)) == list(shared(name).split(split)) for split in reversed(SPLITS))


def test_every_reference_answer_scores_one(name):
    task = shared(name)
    for split in SPLITS:
        assert all(task.score(one, one.answer) == 1.0 for one in task.split(split))


@pytest.mark.parametrize("text", ["", "qqq zzz", "\n", "12345678987654321"])
def test_a_wrong_answer_scores_zero(name, text):
    task = shared(name)
    assert all(task.score(one, text) == 0.0 for one in task.split("test"))


def test_the_answer_of_another_question_scores_zero(name):
    task = shared(name)
    first, *others = task.split("test")
    different = next(one for one in others if one.answer.casefold() != first.answer.casefold())
    assert task.score(first, different.answer) == 0.0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200))
def test_any_text_scores_between_zero_and_one(name, text):
    task = shared(name)
    assert 0.0 <= task.score(task.split("test")[0], text) <= 1.0


def test_a_grade_is_the_score(name):
    task = shared(name)
    for one in task.split("test"):
        for text in (one.answer, "", "12345"):
            assert grade(task, one, text).score == task.score(one, text)


def test_what_it_says_of_its_data_is_plain_json_without_a_folder(name):
    task = shared(name)
    if isinstance(task, DocumentedTask):
        task.split("test")
        about = json.dumps(task.about())
        assert json.loads(about) == task.about()
        assert str(ROWS) not in about


def test_global_random_state_is_left_alone(name):
    before = random.getstate()
    task = build(name)
    task.score(task.split("test")[0], "no letter here")
    assert random.getstate() == before
