"""Every experiment of the paper takes its first step on local rows and a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from test_every_task import QUICK, composed, configuration, model_of, small
from tiny_pool import save_pool

from t2.cli.evaluate import evaluate_systems
from t2.cli.train import train
from t2.run.metrics_file import read_metrics

pytestmark = pytest.mark.commands
NAMES = sorted(path.stem for path in (ROOT / "conf" / "experiment" / "paper").glob("*.yaml"))
EVALUATED = ("table2", "table3", "table5", "table8")
TRAINED = tuple(name for name in NAMES if name not in EVALUATED)
DOMAINS = ("math", "code", "reasoning")
FIRST_STEP = ("steps=1", "prompts_per_step=2", "callbacks.validation.limit=1", "logger=csv")
ONE_QUESTION = ("limit=1", "controls.limit=1", "controls.shots=1", "logger=none")
REPRODUCE = (ROOT / "docs" / "reproduce.md").read_text()
ONE_MEMBER = ("search.population=6", "search.elite_share=0.5", "search.iterations=1")


@pytest.fixture(autouse=True)
def _hydra_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)


def on_local_rows(cfg: DictConfig, node: str) -> Any:
    """The task of a configuration with few and local rows, and what the experiment says of it."""
    given = cfg.get(node)
    local = small(str(given.name) if given is not None else node)
    if given is not None and "splits" in given:
        local.splits = given.splits
    return local


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains(name: str, tmp_path: Path) -> None:
    overrides = (f"experiment=paper/{name}", *QUICK, *FIRST_STEP)
    overrides = tuple(one for one in overrides if not (one.startswith(("adapter.", "+adapter.")) and is_peft(name)))
    task = on_local_rows(composed("train", f"experiment=paper/{name}"), "task")
    run = tmp_path / "run"
    run.mkdir()
    train(configuration("train", run, task, *overrides, *model_of(task)))
    assert set(read_metrics(run / "metrics.csv")) >= {0, 1}
    assert json.loads((run / "results.json").read_text())["scores"][task.name].keys() >= {"base", "expert"}


@pytest.mark.parametrize("line", [one for one in REPRODUCE.splitlines() if one.startswith("python train.py")])
def test_what_is_typed_has_enough_to_train_on(line: str) -> None:
    cfg = composed("train", *line.split()[2:])
    rows = {"gsm8k": 3737, "mbpp": 200, "arc_easy": 1126, "dispatch_paper": math.inf}  # of splits=paper
    assert cfg.prompts_per_step <= rows[cfg.task.name]


def is_peft(name: str) -> bool:
    return "Peft" in composed("train", f"experiment=paper/{name}").adapter._target_


@pytest.mark.parametrize("name", EVALUATED)
def test_it_evaluates(name: str, tmp_path: Path) -> None:
    folder = save_pool(tmp_path / "pool", DOMAINS)
    whole = composed("evaluate", f"experiment=paper/{name}")
    pool = [f"experts.experts.{domain}={folder / domain}.safetensors" for domain in DOMAINS]
    pool += [f"experts.dispatch={folder / 'math'}.safetensors"] if "dispatch" in list(whole.experts) else []
    prefix = {"table2": "strategies.few_shot.", "table5": "strategies.few_shot.", "table8": "strategy."}.get(name)
    search = [f"{prefix}{one}" for one in ONE_MEMBER] if prefix else []
    task = on_local_rows(whole, "task")
    run = tmp_path / "run"
    run.mkdir()
    tiny = ("base_model=tiny", "base_model.context_length=8192", "adapter.modules=all")  # the model of the pool
    cfg = configuration(
        "evaluate", run, task, f"experiment=paper/{name}", *QUICK, *ONE_QUESTION, "shots=1", *pool, *search, *tiny
    )
    tasks = [one for one in cfg.get("benchmarks") or () if one != "benchmark_domains"]
    for one in tasks:
        cfg.benchmarks[one] = small(one)
    evaluate_systems(cfg)
    scored = json.loads((run / "results.json").read_text())["scores"]
    assert scored.keys() == set(tasks or [task.name])
    assert all({"base", *(cfg.strategies or ["few_shot"])} <= systems.keys() for systems in scored.values())
