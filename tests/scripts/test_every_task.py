"""Every task of conf/task with every script: two steps of training, an evaluation, and a search on its examples.

The list is that of the folder, so a new task joins by its YAML (and the rows that tests/tasks asks of it). A task whose
YAML lacks what the scripts interpolate (`name`, `max_new_tokens`) fails here.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from test_tasks_contract import NAMES, config_of, with_rows
from tiny_pool import save_pool

from t2.cli.adapt import adapt
from t2.cli.evaluate import evaluate_systems
from t2.cli.train import train
from t2.cli.train_parts import build
from t2.run.metrics_file import read_metrics

SIZES = {"train_size": 4, "val_size": 2, "test_size": 3, "val_images": 2}  # of the splits of generated data
QUICK = ("sampling.max_new_tokens=3", "adapter.cache=false", "+adapter.progress=false")
POOL = ("+experts._target_=t2.experts.pool.ExpertPool.load", "+experts.experts.only=???")
SEARCH = ("strategy.search.population=6", "strategy.search.elite_share=0.5", "strategy.search.iterations=1")
SMALL = {
    "train": (
        *QUICK,
        "steps=2",
        "prompts_per_step=1",
        "sampling.samples=2",
        "callbacks.validation.limit=1",
        "logger=csv",
    ),
    "evaluate": (*QUICK, "limit=1", "logger=none"),
    "adapt": (*QUICK, *POOL, "strategy=few_shot", *SEARCH, "shots=1"),
}
SCRIPTS = {"train": train, "evaluate": evaluate_systems, "adapt": adapt}


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


@cache
def composed(script: str, *overrides: str) -> DictConfig:
    """The configuration of a script with that of Hydra, composed once for all tasks: not to be changed."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(script, overrides=list(overrides), return_hydra_config=True)


def configuration(script: str, run: Path, task: DictConfig, *overrides: str) -> DictConfig:
    """The configuration of a script with a task and a run folder put into it, as the command line would."""
    whole = copy.deepcopy(composed(script, *overrides))
    with open_dict(whole):
        whole.hydra.runtime.output_dir = str(run)
        HydraConfig.instance().cfg = OmegaConf.masked_copy(whole, "hydra")
        del whole["hydra"]
        whole.task = task
    return whole


def model_of(task: DictConfig) -> tuple[str, ...]:
    """The tiny model that can read the examples of a task."""
    if "digit" in task.name or "vqa" in task.name:
        return ("base_model=tiny_llava", "base_model.layers=1")
    return ("base_model=tiny", "base_model.context_length=8192", "base_model.layers=1")


@pytest.fixture(autouse=True)
def _hydra_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)
    monkeypatch.setattr(
        "t2.cli.train.plot_learning_curve", lambda *_: None
    )  # half of the time, and the same for every task


@pytest.mark.parametrize("name", NAMES)
def test_trains_is_evaluated_and_is_adapted_to(name: str, tmp_path: Path) -> None:
    task = small(name)

    def run(script: str, folder: str, *overrides: str) -> Path:
        (tmp_path / folder).mkdir()
        cfg = configuration(script, tmp_path / folder, task, *model_of(task), *SMALL[script])
        cfg.merge_with_dotlist(list(overrides))
        SCRIPTS[script](cfg)
        return tmp_path / folder

    trained = run("train", "trained")
    assert set(read_metrics(trained / "metrics.csv")) == {0, 1, 2}
    scored = run("evaluate", "scored", f"expert={trained}")
    assert json.loads((scored / "results.json").read_text())["scores"][name].keys() >= {"base", "expert"}
    adapted = run("adapt", "adapted", f"experts.experts.only={trained}")
    assert json.loads((adapted / "results.json").read_text())["task"] == name


@pytest.mark.parametrize("name", NAMES)
def test_every_interpolation_of_train_resolves(name: str, tmp_path: Path) -> None:
    plain = OmegaConf.to_container(configuration("train", tmp_path, config_of(name)), resolve=True)
    assert plain["domain"] == name
    task = instantiate(with_rows(config_of(name), name))
    assert plain["sampling"]["max_new_tokens"] == task.max_new_tokens
    assert plain["sampling"]["stop"] is None  # the task's own, also of one that is made of others


@pytest.mark.parametrize("name", ["add2", "growth"])
def test_training_ends_answers_where_the_task_does(name: str, tmp_path: Path) -> None:
    """`growth` is made of eight tasks, of which each ends its answers with its line."""
    for stop, expected in ((None, ("\n",)), (["."], (".",)), ([], ())):
        cfg = configuration("train", tmp_path, small(name), *model_of(config_of(name)), *SMALL["train"])
        cfg.sampling.stop = stop
        assert build(cfg)[0].sampling.stop == expected


@pytest.mark.parametrize("name", ["humaneval", "humaneval_plus"])
def test_a_task_without_train_split_says_what_to_do(name: str, tmp_path: Path) -> None:
    task = small(name)
    task.split_sizes = None  # as in its YAML
    pool = f"experts.experts.only={save_pool(tmp_path / 'pool') / 'math.safetensors'}"
    for script, overrides in {"train": (), "adapt": (pool,)}.items():
        cfg = configuration(script, tmp_path, task, *model_of(task), *SMALL[script])
        cfg.merge_with_dotlist(list(overrides))
        with pytest.raises(ValueError, match=rf"{name} has no train split.*task=mbpp.*task\.split_sizes="):
            SCRIPTS[script](cfg)
