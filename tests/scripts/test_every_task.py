"""Every task of conf/task with every script: two steps of training, an evaluation, and a search on its examples.

The list is that of the folder, so a new task joins by its YAML (and the rows that tests/tasks asks of it). A task whose
YAML lacks what the scripts interpolate (`name`, `max_new_tokens`) fails here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from test_tasks_contract import NAMES, config_of, with_rows

import t2.adapters.svd
from adapt import adapt
from evaluate import evaluate_systems
from t2.run.metrics_csv import read_metrics
from train import train

SIZES = {"train_size": 4, "val_size": 2, "test_size": 3, "val_images": 2}  # of the splits of generated data
WITHOUT_TRAIN = {"humaneval": "humaneval", "humaneval_plus": "humaneval_plus"}
SMALL = ("sampling.max_new_tokens=3", "adapter.cache=false", "+adapter.progress=false", "score_workers=1")


def shrink(node: Any) -> None:
    """Set the sizes of splits in a task and those nested in it."""
    if isinstance(node, DictConfig):
        for key in node:
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                if key in SIZES and isinstance(node[key], int):
                    node[key] = min(node[key], SIZES[str(key)])
                shrink(node[key])


def small(name: str) -> DictConfig:
    """The task of a YAML with few and local rows."""
    config = config_of(name)
    shrink(config)
    return with_rows(config, name)


def compose_script(script: str, run: Path, task: DictConfig, *overrides: str) -> DictConfig:
    """The configuration of a script with a task put into it; the same interpolations as from the command line."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose(
            script, overrides=[*overrides, f"hydra.runtime.output_dir={run}"], return_hydra_config=True
        )
    HydraConfig.instance().set_config(whole)
    with open_dict(whole):
        del whole["hydra"]
        whole.task = task
    return whole


def model_of(task: DictConfig) -> tuple[str, ...]:
    """The tiny model that can read the examples of a task."""
    if "digit" in task.name or "vqa" in task.name:
        return ("base_model=tiny_llava",)
    return ("base_model=tiny", "base_model.context_length=8192", "base_model.layers=1")


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Compose and run a script in this process: its name, the task, the name of the run's folder and overrides."""
    kept = HydraConfig.instance().cfg
    bodies = {"train": train, "evaluate": evaluate_systems, "adapt": adapt}

    def run(name: str, task: DictConfig, folder: str, *overrides: str) -> Path:
        (tmp_path / folder).mkdir()
        cfg = compose_script(name, tmp_path / folder, task, *model_of(task), *overrides)
        bodies[name](cfg)
        return tmp_path / folder

    yield run
    HydraConfig.instance().cfg = kept


def pool_of(expert: Path) -> list[str]:
    return ["+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts.only={expert / 'expert.safetensors'}"]


SEARCH = ("strategy=few_shot", "strategy.search.population=6", "strategy.search.elite_share=0.5", "strategy.search.iterations=1", "shots=1")
TRAINING = ("steps=2", "prompts_per_step=1", "sampling.samples=2", "callbacks.validation.limit=1", "logger=csv")


@pytest.mark.parametrize("name", NAMES)
def test_trains_is_evaluated_and_is_adapted_to(name: str, script: Callable[..., Any]) -> None:
    task = small(name)
    trained = script("train", task, "trained", *TRAINING, *SMALL)
    assert set(read_metrics(trained / "metrics.csv")) == {0, 1, 2}
    scored = script("evaluate", task, "scored", "limit=1", f"expert={trained}", *SMALL)
    results = json.loads((scored / "results.json").read_text())
    assert results["scores"][name].keys() == {"base", "expert"}
    adapted = script("adapt", task, "adapted", *pool_of(trained), *SEARCH, *SMALL[:-1])
    assert json.loads((adapted / "results.json").read_text())["task"] == name


@pytest.mark.parametrize("name", NAMES)
def test_every_interpolation_of_train_resolves(name: str, tmp_path: Path) -> None:
    kept = HydraConfig.instance().cfg
    try:
        cfg = compose_script("train", tmp_path, config_of(name), "logger=default")
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    finally:
        HydraConfig.instance().cfg = kept
    assert isinstance(plain, dict)
    assert plain["domain"] == name
    assert plain["logger"]["wandb"]["name"].startswith(f"{name}-")
