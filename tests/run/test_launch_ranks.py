"""Processes that cannot divide a run are refused, and the first one owns its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from t2.run.launch_ranks import check_ranks, is_follower, rank_arguments
from t2.run.ranks import follow_quietly, no_bar


def config(strategy: str = "ddp", *, devices: int = 2, prompts: int = 4) -> Any:
    return OmegaConf.create(
        {"trainer": {"strategy": strategy, "devices": devices, "num_nodes": 2}, "prompts_per_step": prompts}
    )


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hydra = SimpleNamespace(mode=RunMode.RUN)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    return hydra


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)


def test_more_processes_than_prompts_are_refused(mode: SimpleNamespace) -> None:
    check_ranks(config())
    with pytest.raises(ValueError, match=r"are 4 processes, and prompts_per_step is 3.*Lower trainer.devices to 1, or"):
        check_ranks(config(prompts=3))


def test_a_sweep_of_several_processes_is_refused(mode: SimpleNamespace) -> None:
    mode.mode = RunMode.MULTIRUN
    with pytest.raises(ValueError, match="each process would start the whole sweep"):
        check_ranks(config())
    check_ranks(config("auto"))


def test_torchrun_without_ddp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its processes would each train, and meet in one folder."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"started 4 processes.*trainer=ddp trainer\.devices=2"):
        check_ranks(config("auto"))


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, mode: SimpleNamespace) -> None:
    """A task of a job of Slurm with two of them on each of two nodes."""
    asked = {"JOB_ID": "7", "NTASKS": "4", "NTASKS_PER_NODE": "2", "NNODES": "2", "STEP_ID": "0", "JOB_NAME": "t2"}
    for name, value in asked.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_tasks_of_slurm_are_the_runs_processes(
    step: None, mode: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_ranks(config())
    check_ranks(config("auto"))  # several runs side by side
    with pytest.raises(ValueError, match=r"4 tasks on 2 nodes, 2 on each.*Ask for hydra\.launcher\.tasks_per_node=1"):
        check_ranks(config(devices=1))
    mode.mode = RunMode.MULTIRUN
    with pytest.raises(ValueError, match="this is a run of one process"):
        check_ranks(config("auto"))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ValueError, match="by --ntasks-per-node=2 --nodes=2 instead of --ntasks"):
        check_ranks(config())
    monkeypatch.delenv("SLURM_STEP_ID")
    with pytest.raises(ValueError, match="write `srun python`"):
        check_ranks(config())  # waits for the other tasks for ever


def test_the_folder_of_a_job_has_its_number(step: None) -> None:
    """A clock would give each task its own, and a requeued job another."""
    assert rank_arguments(["trainer=ddp"])[-1] == "hydra.run.dir=outputs/train/slurm/7"
    assert rank_arguments(["hydra.run.dir=run"]) == ["hydra.run.dir=run"]


def test_only_a_later_process_of_a_divided_run_follows(second: None) -> None:
    assert is_follower(config())
    assert not is_follower(config("auto"))  # such as one of several runs that srun started
    assert not is_follower(OmegaConf.create({}))  # evaluate.py
    assert no_bar() is True


def test_the_first_process_keeps_its_command_line() -> None:
    assert rank_arguments(["trainer=ddp"]) == ["trainer=ddp"]
    assert no_bar() is None


def test_a_follower_shows_errors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, console = logging.FileHandler(tmp_path / "train.log", delay=True), logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [file, console])
    follow_quietly()
    assert logging.getLogger().handlers == [console]
    assert console.level == logging.ERROR
    assert not (tmp_path / "train.log").exists()
