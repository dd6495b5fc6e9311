"""Where a run computes: `base_model.device` says it, the adapter is where its matrices are, and the trainer follows.

Lightning drives the loop and sees an optimizer; it moves neither the model nor the adapter, whose parameters are not in
its module. What it does move is the state of an optimizer that it has read from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer

from t2.training.checkpoint import TrainableAdapter

ACCELERATORS = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}  # trainer.accelerator -> the type of its devices
PREFIX = "adapter."  # of the adapter's names in a checkpoint


def check_accelerator(accelerator: str, device: str) -> None:
    """Check that `trainer.accelerator` says nothing else than `base_model.device`, before anything is loaded.

    Raises:
        ValueError: the two disagree, or t2 has no such accelerator.
    """
    if accelerator == "auto":
        return
    follow = "Leave trainer.accelerator out: the trainer follows base_model.device."
    if accelerator not in ACCELERATORS:
        raise ValueError(f"trainer.accelerator is {accelerator!r}; allowed: auto, {', '.join(ACCELERATORS)}. {follow}")
    asked = "cpu" if device == "cpu" or (device == "auto" and not torch.cuda.device_count()) else "cuda"
    if ACCELERATORS[accelerator] != asked:
        raise ValueError(
            f"trainer.accelerator is {accelerator!r} and base_model.device is {device!r}: the trainer works where the "
            f"model is. {follow}"
        )


def trainer_placement(device: torch.device) -> dict[str, Any]:
    """The trainer's arguments `accelerator` and `devices` for a model whose first weights are on `device`."""
    if device.type != "cuda":
        return {"accelerator": device.type, "devices": 1}
    return {"accelerator": "gpu", "devices": [device.index or 0]}


class AdapterModule(L.LightningModule):
    """A LightningModule that trains an adapter which is none of its submodules."""

    def __init__(self, adapter: TrainableAdapter) -> None:
        """Keep the adapter where Lightning does not find it."""
        super().__init__()
        self._outside = (adapter,)

    @property
    def adapter(self) -> TrainableAdapter:
        """The adapter that is trained."""
        return self._outside[0]

    @property
    def the_optimizer(self) -> LightningOptimizer:
        """The one optimizer."""
        found = self.optimizers()
        assert isinstance(found, LightningOptimizer), "one optimizer is configured"
        return found

    def return_state(self) -> None:
        """Move an optimizer's state to its parameters: Lightning puts all that it reads on the trainer's device."""
        optimizer = self.the_optimizer.optimizer
        optimizer.load_state_dict(optimizer.state_dict())

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """What a checkpoint holds of the module: the adapter's parameters."""
        return {f"{PREFIX}{name}": value for name, value in self.adapter.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """The inverse of `state_dict`, in place: the parameters stay on their devices."""
        return self.adapter.load_state_dict({name.removeprefix(PREFIX): value for name, value in state_dict.items()})
