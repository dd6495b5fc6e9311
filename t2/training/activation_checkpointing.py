"""Activation checkpointing: decoder blocks are computed again in the backward pass instead of keeping activations.

Memory then grows with the number of blocks times one hidden state, at the price of a second forward (Chen et al. 2016,
arXiv 1604.06174). transformers has a switch of the same meaning, which works in training mode only, where dropout would
also be on; a frozen model stays in evaluation mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from t2.adapters.targets import decoder_blocks


def recompute_blocks(model: nn.Module) -> None:
    """Checkpoint the activations of every decoder block of `model`.

    Raises:
        ValueError: the model has no list of decoder blocks.
    """
    _, blocks = decoder_blocks(model)
    for block in blocks:
        block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
