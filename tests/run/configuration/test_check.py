"""Faults of a composed configuration: each is one line that names the key, what it is and what is allowed."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_type_hints

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.check import check_configuration
from t2.run.configuration.hints import hints_of
from t2.run.configuration.settings import FILLED_IN, SCRIPTS


def composed(script: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(script, overrides=["paths.run=/run", *overrides])


def faults(node: Any) -> str:
    """The message for a configuration of parts alone."""
    with pytest.raises(ValueError, match=r"\S") as refused:
        check_configuration(OmegaConf.create(node), "a script of one's own")
    return str(refused.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_settings_have_the_keys_of_the_yaml(script: str) -> None:
    """A key added to a YAML alone would be refused, one added to the settings alone be missing."""
    settings = SCRIPTS[script]
    yaml = set(composed(script))
    needed = {key for key in get_type_hints(settings) if not hasattr(settings, key)}
    assert needed <= yaml <= set(get_type_hints(settings))
    assert set(FILLED_IN) <= set(SCRIPTS)


SAMPLING = {"_target_": "t2.types.Sampling"}
CSV = {"_target_": "t2.run.metrics_csv.MetricsCSV"}
PARTS = {
    "unknown argument": ({"a": {**SAMPLING, "sampels": 2}}, ["a.sampels is no argument", "Did you mean 'samples'"]),
    "type": ({"a": {**SAMPLING, "samples": "two"}}, ["a.samples is 'two'; allowed: at least 1 (an integer)."]),
    "range": ({"a": {**SAMPLING, "top_p": 2}}, ["a.top_p is 2; allowed: above 0 and at most 1 (a number)."]),
    "not split into letters": ({"a": {**SAMPLING, "stop": "abc"}}, ["a.stop is 'abc'; allowed: a list"]),
    "number for text": (
        {"a": {**CSV, "folder": 3}}, ["allowed: text. To give text, quote it twice: 'a.folder=\"3\"'"],
    ),
    "missing argument": ({"a": CSV}, ["a.folder is missing", "needs it: text"]),
    "deep in a list": ({"a": {"b": [{"c": {**SAMPLING, "seed": -1}}]}}, ["a.b.0.c.seed is -1; allowed: at least 0"]),
    "no such class": ({"a": {"_target_": "t2.types.Samplings"}}, ["a._target_ is t2.types.Samplings, which cannot be"]),
    "no class": ({"a": {"_target_": "t2.types.OTHER"}}, ["which builds nothing"]),
    "no name": ({"a": {"_target_": 3}}, ["a._target_ is 3; allowed: the dotted name"]),
    "old name": ({"a": {"_target_": "t2.objectives.RLOO"}}, ["which is now t2.training.objectives.RLOO. Correct it."]),
    "partial": ({"a": {**SAMPLING, "_partial_": "yes"}}, ["a._partial_ is 'yes'; allowed: true or false."]),
    "not a number": ({"a": {"b": {"c": float("nan")}}}, ["a.b.c is nan; allowed: a finite number."]),
    "infinite": ({"a": [float("-inf")]}, ["a.0 is -inf; allowed: a finite number."]),
    "two faults": ({"a": {**SAMPLING, "samples": 0, "top_p": 0}}, ["a.samples is 0", "\na.top_p is 0"]),
    "too many epochs": ({"paths": {"run": "/r"}, "trainer": {"max_epochs": 3}}, ["max_epochs is 3; allowed: -1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_fault_of_a_part_is_named(case: str) -> None:
    node, expected = PARTS[case]
    message = faults(node)
    for part in expected:
        assert part in message


def test_parts_without_fault_pass() -> None:
    node = {"a": {**SAMPLING, "stop": ["x"]}, "b": {**CSV, "_partial_": True}}
    check_configuration(OmegaConf.create(node), "a script of one's own")


def test_what_a_script_fills_in_may_be_null_there_alone() -> None:
    check_configuration(composed("evaluate", "logger=none"), "evaluate")
    with pytest.raises(ValueError, match=r"sampling\.max_new_tokens is None; allowed: at least 1"):
        check_configuration(composed("adapt", "sampling.max_new_tokens=null"), "adapt")


def test_what_is_left_open_is_named_with_what_to_add() -> None:
    with pytest.raises(ValueError, match=r"Add experts\.experts=VALUE; its YAML's header says more"):
        check_configuration(composed("evaluate", "experts=folder"), "evaluate")


def test_a_task_without_a_name_is_told_so() -> None:
    cfg = composed("train", "~task.name")
    with pytest.raises(ValueError, match=r"^task\.name is missing: what results are filed under"):
        check_configuration(cfg, "train")


def test_a_layer_is_named_once() -> None:
    check_configuration(composed("train", "adapter.layers=[0,1]"), "train")
    with pytest.raises(ValueError, match=r"adapter\.layers names 1 twice; allowed: each layer once"):
        check_configuration(composed("train", "adapter.layers=[1,0,1]"), "train")


@pytest.mark.parametrize(
    ("word", "said"), [("+expert=x", "expert is no key of serve.py"), ("port=70000", "port is 70000")]
)
def test_keys_of_a_server_are_checked_too(word: str, said: str) -> None:
    check_configuration(composed("serve", "strategies=[prompt]", "experts=smollm2_135m"), "serve")
    with pytest.raises(ValueError, match=said):
        check_configuration(composed("serve", word), "serve")


def test_every_constructor_of_t2_can_be_checked() -> None:
    """Its annotations are found, so that no argument of a part of conf/ is left unchecked."""

    yaml = "".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
    names = set(re.findall(r"_target_: (t2\S+)", yaml))
    assert len(names) > 20
    for name in names:
        target = get_object(name)
        assert inspect.signature(target).parameters.keys() <= hints_of(target).keys(), name
