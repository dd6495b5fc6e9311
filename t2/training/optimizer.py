"""The optimizer of a training run: AdamW with linear warm-up and cosine decay, as in the paper's Table 6.

A step that would make NaN or infinity of the parameters is refused: no checkpoint ever holds them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay to zero; gradient norm clipped (paper, Table 6: 2e-3 and 1e-3)."""

    lr: Annotated[float, Field(gt=0, le=1)] = 2e-3  # z begins at 1, and AdamW moves it by about lr a step
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat = 1e-3

    def scale(self, step: int, total_steps: int) -> float:
        """The factor of lr in the given step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        share = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

    def build(self, parameters: Sequence[nn.Parameter], total_steps: int) -> tuple[AdamW, LambdaLR]:
        """The optimizer, and the schedule to be stepped after it; a warning where that never reaches `lr`."""
        if self.warmup_steps >= total_steps:
            log.warning(
                "optimizer.warmup_steps is %d and steps %d: the learning rate never reaches %g. Warm up less.",
                *(self.warmup_steps, total_steps, self.lr),
            )
        adamw = AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        return adamw, LambdaLR(adamw, lambda step: self.scale(step, total_steps))

    def set_rate(self, optimizer: LightningOptimizer | Optimizer, step: int, total_steps: int) -> None:
        """Set the schedule's rate: a checkpoint has that of its own number of steps, which ends at 0."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr * self.scale(step, total_steps)


def clipped_step(
    optimizer: LightningOptimizer | Optimizer,
    schedule: LambdaLR | None,
    parameters: Sequence[nn.Parameter],
    clip_norm: float,
) -> dict[str, float]:
    """Clip the gradient, step optimizer and schedule, and return the gradient's norm and this step's learning rate.

    Lightning counts a training step for each step of its own optimizer, and the schedule is by training steps: of
    several updates in one training step, the others than the last take the optimizer inside and no schedule.

    Raises:
        FloatingPointError: the gradient is not finite (nothing has changed then), or the parameters no longer are.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm))
    if not math.isfinite(norm):
        bad = sum(not bool(one.grad.isfinite().all()) for one in parameters if one.grad is not None)
        raise FloatingPointError(f"The gradient of {bad} of {len(parameters)} matrices is NaN or infinite. {_ADVICE}")
    lr = float(optimizer.param_groups[0]["lr"])
    optimizer.step()
    if schedule is not None:
        schedule.step()
    bad = sum(not bool(one.isfinite().all()) for one in parameters)
    if bad:
        raise FloatingPointError(f"The step made {bad} of {len(parameters)} vectors NaN or infinite. {_ADVICE}")
    return {"train/grad_norm": norm, "train/lr": lr}


_ADVICE = (
    "This step is not saved. Lower optimizer.lr, bound the advantages (objective.advantage_clip), or take "
    "base_model.dtype=float32."
)
