"""A training run in the process of others, one that ended early, and one that goes on."""

from __future__ import annotations

import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from t2.cli import train_parts
from t2.cli.compose import composed
from t2.cli.train import train
from t2.evaluation.results import Results
from t2.models.language_model import LanguageModel
from t2.run.phases import ELAPSED, Phases
from t2.training.adaptation_callback import Adaptation


def smoke(folder: Path, **changes: Any) -> Results:
    plain = {"experiment": "smoke", "task": "add2", "logger": "none", "paths.run": str(folder)}
    results = train(composed("train", plain | {key.replace("__", "."): value for key, value in changes.items()}))
    assert results is not None
    return results


def test_the_model_of_an_earlier_job_is_gone_when_the_next_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []
    build = train_parts.instantiate

    def instantiate(*arguments: Any, **named: Any) -> Any:
        made = build(*arguments, **named)
        if isinstance(made, LanguageModel):
            alive.append(sum(one() is not None for one in seen))
            seen.append(weakref.ref(made.model))
        return made

    monkeypatch.setattr(train_parts, "instantiate", instantiate)
    for number in range(3):
        smoke(tmp_path / str(number), steps=1, seed=number)
    assert alive == [0, 0, 0]


def test_the_seconds_of_a_run_that_goes_on_are_those_of_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Phases.state_dict
    with monkeypatch.context() as patch:
        patch.setattr(Phases, "state_dict", lambda self: {**save(self), ELAPSED: 1000.0})
        smoke(tmp_path)
    assert smoke(tmp_path, resume=str(tmp_path)).seconds["total"] > 1000


def test_the_seconds_of_a_run_begin_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []
    phases: list[Phases] = []

    def build(cfg: Any) -> Any:
        begun.append(time.perf_counter())
        parts = train_parts.build(cfg)
        phases.append(parts[0].phases)
        return parts

    monkeypatch.setattr("t2.cli.train.build", build)
    smoke(tmp_path)
    assert phases[0].start_s <= begun[0]


def test_a_run_that_ends_early_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    smoke(tmp_path, steps=3, **{"+trainer.max_time": "00:00:00:00"})
    assert "of 3, by early stopping or trainer.max_time" in caplog.text


def test_a_fast_dev_run_is_short_with_adaptation_too(tmp_path: Path) -> None:
    words = {"experiment": "smoke", "task": "add2", "callbacks": "adaptation", "trainer.fast_dev_run": True}
    callbacks, _ = train_parts.build_callbacks(composed("train", words | {"paths.run": str(tmp_path)}))
    (adaptation,) = (one for one in callbacks if isinstance(one, Adaptation))
    assert all(len(adaptation.benchmark.examples[task.name]) <= 2 for task in adaptation.benchmark.tasks)
