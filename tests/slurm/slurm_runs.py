"""The training run that the tests of Slurm start, and what it has learned."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from t2.training.checkpoint_file import LAST_CHECKPOINT, read_checkpoint

WORDS = (
    *("experiment=smoke", "logger=csv", "~task=chain_sum", "+task._target_=slurm_task.SlurmTask", "steps=5"),
    *("sampling.samples=4", "callbacks.validation.every=3", "optimizer.lr=0.01", "score_workers=1"),
)
Run = Callable[..., subprocess.CompletedProcess[str]]


def z(run: Path) -> torch.Tensor:
    """All that a run has learned, and its optimizer's numbers, in one vector."""
    content = read_checkpoint(run / LAST_CHECKPOINT)
    (optimizer,) = content["optimizer_states"]
    moments = [value for state in optimizer["state"].values() for value in state.values()]
    return torch.cat([value.flatten() for value in (*content["state_dict"].values(), *moments)])
