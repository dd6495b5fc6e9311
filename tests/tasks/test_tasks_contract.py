"""The contract of a task: in short for each file of conf/task, in full for one file of each class.

A new task joins by its YAML. One that reads rows (`data_files`) brings a few in tests/tasks/rows/NAME/, one JSONL file
per split, and an overrides.yaml there if its default sizes need more rows than that. A task that others are nested in
by its defaults list (`/task@KEY: NAME`) gets their rows, and its own overrides.yaml.
"""

import copy
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

from t2.evaluation.null import null_of
from t2.tasks.base import SPLITS, DocumentedTask, Task, grade
from t2.tasks.form import Form
from t2.tasks.prompt_hash import prompt_hashes

CONF = Path(__file__).parents[2] / "conf"
ROWS = Path(__file__).parent / "rows"
NAMES = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


@cache
def composed(name):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(overrides=[f"+task={name}"]).task


def config_of(name):
    config = copy.deepcopy(composed(name))
    OmegaConf.set_struct(config, False)  # an overrides.yaml may name an argument that the YAML leaves at its default
    return config


def build(name):
    return instantiate(with_rows(config_of(name), name))


def with_rows(config, name):
    """The config with rows of the tests, for itself and for the tasks nested in it."""
    if "data_files" in config:
        files = {path.stem: str(path) for path in (ROWS / name).glob("*.jsonl")}
        assert files, f"conf/task/{name}.yaml reads rows; put a few into {ROWS / name}/SPLIT.jsonl"
        config.data_files = files
    for entry in OmegaConf.load(CONF / "task" / f"{name}.yaml").get("defaults", []):
        if not isinstance(entry, str):  # {/task@KEY: NAME}
            ((nested, choice),) = entry.items()
            key = nested.partition("@")[2]
            OmegaConf.update(config, key, with_rows(OmegaConf.select(config, key), choice), merge=False)
    overrides = ROWS / name / "overrides.yaml"
    return OmegaConf.merge(config, OmegaConf.load(overrides)) if overrides.exists() else config


def one_of_each_class():
    """A name for each class, and for each way in which one class asks or reads its answers."""
    configs = {name: config_of(name) for name in NAMES}
    kinds = {name: (one["_target_"], one.get("extract"), one.get("ask")) for name, one in configs.items()}
    return sorted({kind: name for name, kind in reversed(kinds.items())}.values())


each_task = pytest.mark.parametrize("name", NAMES, scope="module")  # one task after the other
each_class = pytest.mark.parametrize("name", one_of_each_class(), scope="module")


@lru_cache(maxsize=1)  # data sets of tens of thousands of rows would slow down whatever runs after them
def shared(name):
    return build(name)


@each_task
def test_has_a_name_a_length_limit_and_disjoint_splits_whose_references_are_right(name):
    task = shared(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.max_new_tokens >= 1
    assert isinstance(task.form, Form)
    pixels = cache(lambda image: image.load().tobytes())  # the same question may be asked of many images
    seen = [{(one.prompt, *map(pixels, one.images)) for one in task.split(split)} for split in SPLITS]
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))
    hashed = [set(prompt_hashes(task.split(split))) for split in SPLITS]  # by which an evaluation refuses to go on
    assert len(set.union(*hashed)) == sum(map(len, hashed))
    for split in SPLITS:
        assert all(task.score(one, one.answer) == 1.0 for one in task.split(split))


@each_task
def test_a_stated_prefix_begins_the_turn_of_every_question_and_chances_are_shares(name):
    task = shared(name)
    asked = [one for split in SPLITS for one in list(task.split(split))[:40]]
    begun = [task.form.with_prefix(one) for one in asked] if task.form.prefix else asked
    assert all(one.response_prefix for one in begun) or not task.form.prefix
    assert all(task.score(one, one.reference_completion) == 1.0 for one in begun if one.answer is not None)
    chances = [task.chance(one) for one in asked]
    assert len({tuple(chance) for chance in chances}) == 1 or name in UNIONS
    assert all(0.0 <= score <= 1.0 for chance in chances for score in chance.values())


@pytest.mark.parametrize("name", [name for name in NAMES if "data_files" not in config_of(name)])
def test_no_guess_is_always_right(name):
    """Of tasks that are generated: the few rows that tests have of others may have one answer."""
    task = shared(name)
    assert null_of(task, task.split("test")).score < 1.0


UNIONS = ("digits_read", "growth")


@each_class
def test_another_instance_has_the_same_examples_and_leaves_global_random_state_alone(name):
    before = random.getstate()
    other = build(name)
    assert all(list(other.split(split)) == list(shared(name).split(split)) for split in reversed(SPLITS))
    other.score(other.split("test")[0], "no letter here")
    assert random.getstate() == before


@each_class
@pytest.mark.parametrize("text", ["", "qqq zzz", "\n", "12345678987654321"])
def test_a_wrong_answer_scores_zero(name, text):
    task = shared(name)
    assert all(task.score(one, text) == 0.0 for one in task.split("test"))


@each_class
def test_the_answer_of_another_question_scores_zero(name):
    task = shared(name)
    first, *others = task.split("test")
    different = next(one for one in others if one.answer.casefold() != first.answer.casefold())
    assert task.score(first, different.answer) == 0.0


@each_class
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200))
def test_any_text_scores_between_zero_and_one(name, text):
    task = shared(name)
    assert 0.0 <= task.score(task.split("test")[0], text) <= 1.0


@each_class
def test_a_grade_is_the_score(name):
    task = shared(name)
    for one in task.split("test"):
        for text in (one.answer, "", "12345"):
            assert grade(task, one, text).score == task.score(one, text)


@each_class
def test_about_is_plain_json_without_a_folder_and_an_unknown_split_is_refused(name):
    task = shared(name)
    with pytest.raises(ValueError, match="Did you mean 'test'"):
        task.split("tests")
    if isinstance(task, DocumentedTask):
        task.split("test")
        about = json.dumps(task.about())
        assert json.loads(about) == task.about()
        assert str(ROWS) not in about
