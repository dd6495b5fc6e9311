"""Lightning's own EarlyStopping and ModelCheckpoint in a run of t2, on the metrics that t2 logs.

    +callbacks.stop='{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/score, mode: max, patience: 3}'

Lightning serves them at the end of an epoch or of its validation loop. A run of t2 is one epoch, and validates before a
step (`t2.training.callbacks.Validation`). So `ServeLightning` hands them the metrics and calls them after each
validation. Metrics of the latest step (train/...) can be monitored, too; a validation before there is one is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from t2.training.callbacks import Validation, training_of
from t2.training.checkpoint_file import DurableCheckpoints

LIGHTNING_FOLDER = "lightning"


def has_checkpoint(callbacks: Sequence[L.Callback]) -> bool:
    """Whether Lightning saves checkpoints of its own, beside those of t2."""
    return any(isinstance(callback, Checkpoint) for callback in callbacks)


def serve_lightning(callbacks: Sequence[L.Callback], validation: Validation, *, run: Path) -> list[L.Callback]:
    """The callbacks, with one after the validation that serves Lightning's among them, where there are any.

    A ModelCheckpoint without `dirpath` writes into `run/lightning`.

    Raises:
        ValueError: one of them is to act at the end of an epoch.
    """
    served = [callback for callback in callbacks if isinstance(callback, EarlyStopping | ModelCheckpoint)]
    for callback in served:
        stops = isinstance(callback, EarlyStopping)
        key = "_check_on_train_epoch_end" if stops else "_save_on_train_epoch_end"
        if getattr(callback, key):
            raise ValueError(
                f"{type(callback).__name__}({key[1:]}=True): a run is one epoch, whose end is that of the run. "
                "Leave it out, and it acts after each validation (callbacks.validation.every)."
            )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run.resolve() / LIGHTNING_FOLDER)  # Lightning's choice depends on the loggers
        setattr(callback, key, False)  # else Lightning decides by its own validation loop, which t2 does without
    if not served:
        return list(callbacks)
    place = callbacks.index(validation) + 1
    return [*callbacks[:place], ServeLightning(served, validation), *callbacks[place:]]


class ServeLightning(L.Callback):
    """Calls Lightning's callbacks after each validation, with the metrics of it and of the latest step."""

    def __init__(self, served: Sequence[L.Callback], validation: Validation) -> None:
        """`validation` comes before this one."""
        self.served, self.validation = served, validation
        self.step: int | None = None  # of the last validation that was passed on

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have a ModelCheckpoint write durably, too; Lightning's own writer breaks where a signal's handler saves."""
        if not isinstance(trainer.strategy.checkpoint_io, DurableCheckpoints):
            trainer.strategy.checkpoint_io = DurableCheckpoints()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Pass on the validation before the step, if there was one."""
        self._serve(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let Lightning's callbacks see the metrics of the step."""
        self._show(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass on the last validation."""
        self._serve(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The step that was passed on last, so that a resumed run passes none on twice."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.step = state_dict["step"]

    def _serve(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        if step not in self.validation.reports or step == self.step:
            return
        self.step = step
        self._show(trainer, module)
        for callback in self.served:
            monitor = getattr(callback, "monitor", None)
            # A metric of the latest step is not there before this process has made one; a misspelt one never is.
            if monitor is None or monitor in trainer.callback_metrics or training_of(module).metrics:
                callback.on_validation_end(trainer, module)

    def _show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        scores = self.validation.reports[max(self.validation.reports)]
        metrics = {**training_of(module).metrics, "val/score": sum(scores) / len(scores)}
        trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
