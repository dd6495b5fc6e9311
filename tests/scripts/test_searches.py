"""Searches and grids as a user starts them, and Lightning's own settings of a run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from t2.run.sweep import read_jobs
from t2.training.checkpoint_file import LAST_CHECKPOINT, read_checkpoint

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
SMOKE = ("experiment=smoke", "logger=csv", "steps=1")


def test_a_search_gets_the_headline_score_and_starts_again_where_it_was(tmp_path: Path, run_script: Run) -> None:
    search = ("train", "-m", "hparams_search=optuna_lr", *SMOKE, "callbacks.validation.limit=1",
              f"hydra.sweep.dir={tmp_path}", "sampling.samples=2")  # fmt: skip
    run_script(*search, "hydra.sweeper.n_trials=2")
    scores = [json.loads((tmp_path / str(n) / "results.json").read_text())["headline"] for n in range(2)]
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.best_value == max(scores)
    assert found.best_params.keys() == {"optimizer.lr"}
    run_script(*search, "hydra.sweeper.n_trials=3", "skip_finished=true")
    assert [job.state for job in read_jobs(tmp_path)] == ["skipped", "skipped", "finished"]


def test_a_trial_that_fails_is_none_of_the_best_and_ends_no_other(tmp_path: Path, run_script: Run) -> None:
    with pytest.raises(SystemExit) as ended:
        run_script(
            "train", "-m", "hparams_search=optuna_lr", *SMOKE, "callbacks.validation.limit=1",
            f"hydra.sweep.dir={tmp_path}", "hydra.sweeper.n_trials=3",
            "sampling.samples=2", "optimizer.lr=0.001", "prompts_per_step=choice(0,1)",
        )  # fmt: skip
    assert ended.value.code == 1
    states = {job.state for job in read_jobs(tmp_path)}
    assert states == {"finished", "failed"}
    assert OmegaConf.load(tmp_path / "optimization_results.yaml").best_params == {"prompts_per_step": 1}


def test_a_grid_is_a_sweep_by_itself(tmp_path: Path, run_script: Run) -> None:
    run_script(
        "train", "experiment=grid/lr", "base_model=tiny", *SMOKE[1:], "prompts_per_step=1", "sampling.samples=2",
        "sampling.max_new_tokens=2", "callbacks.validation.limit=1", "seed=0", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert [job.state for job in read_jobs(tmp_path)] == ["finished"] * 3


def test_fast_dev_run_ends_and_writes_no_logs(tmp_path: Path, run_script: Run) -> None:
    run_script("train", "experiment=smoke", "steps=9", "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}")
    assert json.loads((tmp_path / "results.json").read_text())["scores"]["chain_sum"]["expert"]["n"] == 2
    assert read_checkpoint(tmp_path / LAST_CHECKPOINT)["global_step"] == 1
    assert not (tmp_path / "wandb").exists()
    assert not (tmp_path / "metrics.csv").exists()


def test_ctrl_c_in_the_middle_of_a_checkpoint_leaves_a_whole_one(
    tmp_path: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served at once, it would leave objects of libraries half made, and the step unsaved."""
    link = os.link

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        link(*arguments)

    monkeypatch.setattr(os, "link", interrupted)  # the second checkpoint keeps the first one
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run_script("train", *SMOKE[:2], "steps=4", f"hydra.run.dir={tmp_path}")
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / LAST_CHECKPOINT)["global_step"] == 2
    run_script("train", f"resume={tmp_path}")
    assert (tmp_path / "results.json").is_file()
