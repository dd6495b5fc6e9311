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

from t2.run.ranks import local_rank
from t2.training.checkpoint import TrainableAdapter
from t2.training.ranks import AdapterDDP

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


def ddp_placement(device: torch.device) -> dict[str, Any]:
    """The trainer's arguments of one of several processes, whose model is on `device`."""
    accelerator = "gpu" if device.type == "cuda" else device.type
    return {"accelerator": accelerator, "strategy": AdapterDDP(), "use_distributed_sampler": False}


def device_of_rank(name: str, devices: int) -> str:
    """The device of this process's model, of `base_model.device` and of how many processes a machine has.

    Raises:
        ValueError: there are fewer GPUs than processes, or the name is one GPU's or that of several.
    """
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not count):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise ValueError(
            f"base_model.device is {name!r}; allowed with trainer=ddp and trainer=fsdp: cpu, cuda, auto. Each "
            "process has a GPU of its own, in their order; the environment variable CUDA_VISIBLE_DEVICES chooses among "
            "them."
        )
    if count < devices:
        raise ValueError(
            f"trainer.devices is {devices} and torch sees {count} CUDA devices here: each process has one of its own. "
            "Lower trainer.devices."
        )
    return f"cuda:{local_rank()}"


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
