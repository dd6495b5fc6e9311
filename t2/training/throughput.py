"""How much of the hardware a step uses: tokens per second, and model FLOPs utilization where the peak is known.

A token costs 2 FLOPs for each weight that it is multiplied with, and as many again in the backward pass: weights are
frozen, so only gradients of activations are computed, and that makes 4 instead of the usual 6 (Kaplan et al. 2020,
arXiv 2001.08361). The factors of an adapter, attention and what is computed again to save memory do not count, as is
usual for this number (Chowdhery et al. 2022, arXiv 2204.02311, Appendix B). Peaks are Lightning's table of GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import nn

from t2.models.language_model import LanguageModel
from t2.training.ranks import Ranks


class UpdateMeter:
    """Seconds and FLOPs of the forward and backward passes of an update."""

    def __init__(self, lm: LanguageModel) -> None:
        """Look up the peak of the model's device, None for a CPU and for a GPU that Lightning does not know."""
        self.model = lm.model.base_model
        self.peak = (
            get_available_flops(lm.device, lm.dtype) if torch.cuda.is_available() and lm.device.type == "cuda" else None
        )
        self.flops_per_token = 2.0 * multiplied_weights(lm.model)
        self.seconds, self._flops = 0.0, 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Measure the block, from zero."""
        self._flops = 0.0
        handle = self.model.register_forward_pre_hook(self._add, with_kwargs=True)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - start
            handle.remove()

    def metrics(self) -> dict[str, float]:
        """Of the latest block: `seconds/forward_backward`, and `train/mfu` where the peak is known."""
        found = {"seconds/forward_backward": self.seconds}
        if self.peak is not None:
            found["train/mfu"] = self._flops / self.seconds / self.peak
        return found

    def _add(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        tokens = ids.numel() if ids is not None else kwargs["inputs_embeds"][..., 0].numel()
        self._flops += tokens * self.flops_per_token * (2 if torch.is_grad_enabled() else 1)


def time_metrics(
    sampling: Mapping[str, float], step: Mapping[str, float], tokens: int, *, start: float
) -> dict[str, float]:
    """Where the time of a step went, for the loggers.

    Args:
        sampling: seconds of the step's completions by phase, whenever they were spent; without `rollout` where another
            rank had all of them.
        step: seconds of the trainer by phase; `rollout_wait` among them where completions were sampled ahead.
        tokens: those of the completions.
        start: when the step began, by `time.perf_counter`.
    """
    generated = sampling.get("rollout", 0.0) + sampling.get("wait", 0.0)
    seconds = {"rollout_wait": generated + sampling.get("score", 0.0), **sampling, **step}
    rate = tokens / max(time.perf_counter() - start, 1e-9)
    return {
        **{f"seconds/{phase}": value for phase, value in seconds.items()},
        "rollout/tokens_per_second": tokens / max(generated, 1e-9),
        "train/tokens_per_second": rate,
        "train/tokens_per_second_per_process": rate / Ranks.here().size,
    }


def multiplied_weights(model: nn.Module) -> int:
    """The number of weights that a token is multiplied with: all but the embeddings, where no head is tied to them."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    embeddings = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings().weight  # type: ignore[operator]
    looked_up = 0 if head is embeddings else embeddings.numel()
    return sum(p.numel() for p in frozen.values()) - int(looked_up)
