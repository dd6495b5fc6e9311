"""A resumed run is compared with the configuration it was started with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.resume import check_unchanged

STARTED = {
    "seed": 0, "steps": 5, "resume": None, "paths": {"run": "${hydra:runtime.output_dir}"}, "logger": {"csv": {"a": 1}},
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "objective": {"_target_": "some.RLOO", "reward": 1.0},
    "trainer": {"devices": 1, "strategy": "auto"},
}  # fmt: skip


@pytest.fixture
def resumed(tmp_path: Path) -> Any:
    """The configuration of a run that goes on, with changes."""
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(STARTED), tmp_path / ".hydra" / "config.yaml")

    def of(**changes: Any) -> DictConfig:
        return OmegaConf.create({**STARTED, "resume": str(tmp_path), **changes})

    return of


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed: was 0, now 1"),
        ({"optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}}, "optimizer.lr: was 0.1, now 0.2"),
        ({"optimizer": {"lr": 0.1, "betas": [0.9, 0.9]}}, "optimizer.betas: was [0.9, 0.99], now [0.9, 0.9]"),
        ({"optimizer": {"lr": 0.1}}, "optimizer.betas: was [0.9, 0.99], now not set"),
        ({"objective": "sft"}, "objective: was some.RLOO, now sft"),
        ({"domain": "math"}, "domain: was not set, now math"),
        ({"seed": False}, "seed: was 0, now False"),  # equal to 0
    ],
)
def test_every_other_difference_is_named_and_refused(resumed: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="goes on with a run as it was started") as refused:
        check_unchanged(resumed(**changes, steps=9))
    assert f"\n    {said}\n" in str(refused.value)
    assert "steps: was" not in str(refused.value)


def test_several_differences_are_named_at_once(resumed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed: was 0, now 1\n.*domain: was not set, now x"):
        check_unchanged(resumed(seed=1, domain="x"))


def test_another_number_of_processes_may_go_on(resumed: Any) -> None:
    check_unchanged(resumed(trainer={"devices": 4, "strategy": "ddp", "num_nodes": 2}))
    with pytest.raises(ValueError, match=r"differ:\n    trainer\.precision: was not set, now 16-mixed"):
        check_unchanged(resumed(trainer={"devices": 4, "strategy": "ddp", "precision": "16-mixed"}))


def test_fewer_steps_than_are_done_are_refused(resumed: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"global_step": 3}, tmp_path / "checkpoints" / "last.ckpt")
    for steps in (1, 2):
        with pytest.raises(ValueError, match=f"the run has done 3 steps, and steps={steps} would do none"):
            check_unchanged(resumed(steps=steps))
    for steps in (3, 4):
        check_unchanged(resumed(steps=steps))
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    check_unchanged(resumed(steps=1))  # whoever reads it says so


def test_paths_and_loggers_may_change_and_steps_with_a_warning(resumed: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_unchanged(resumed(paths={"run": "/elsewhere"}, logger={}))
        assert not caplog.text
        check_unchanged(resumed(steps=9))
    assert "steps: was 5, now 9: from here on the learning rate follows the schedule" in caplog.text


def test_another_time_limit_may_go_on(resumed: Any) -> None:
    """Lightning keeps the time that a run has taken: under the old limit it would stop at once."""
    check_unchanged(resumed(trainer={"devices": 1, "strategy": "auto", "max_time": "00:01:00:00"}))
