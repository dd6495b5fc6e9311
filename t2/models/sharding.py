"""Models that do not fit one GPU: `device=balanced` spreads the decoder blocks over all GPUs, through accelerate.

    cuda:0   embeddings, blocks 0 to 19 ---hidden states---> cuda:1   blocks 20 to 39 ---> ...   norm, head

accelerate's hooks move what a block is given to the block's GPU; the GPUs work one after another. Whatever wraps a
matrix is on the GPU of its block, and hidden states, logits and log-probs come back to the first one
(`t2.models.language_model`). Weights that are offloaded to the CPU or a disk are refused: they are not there when the
adapter wraps them. Not done here: tensor parallelism, several processes.
"""

from __future__ import annotations

import torch
from torch import nn

BALANCED = "balanced"  # accelerate's and transformers' word for it


def device_map(device: str) -> str | dict[str, torch.device] | None:
    """The argument `device_map` of `from_pretrained` for `balanced`, or a device by name; None for the CPU.

    Raises:
        ValueError: `balanced` without a GPU.
    """
    if device != BALANCED:
        found = torch.device(device)
        return None if found.type == "cpu" else {"": found}
    if torch.cuda.device_count() == 0:
        raise ValueError("device is 'balanced', which spreads a model over GPUs, and torch sees none here.")
    return BALANCED


def check_placed(model: nn.Module, source: str) -> None:
    """Raise ValueError where accelerate has put weights of `model` elsewhere than on GPUs."""
    weights = dict(model.named_parameters())
    outside = [name for name, weight in weights.items() if weight.device.type != "cuda"]
    if outside:
        total = sum(weight.numel() * weight.element_size() for weight in weights.values()) / 1e9
        raise ValueError(
            f"{len(outside)} of {len(weights)} weights of {source} ({total:.0f} GB) do not fit the GPUs here, such as "
            f"{outside[0]}. Offloaded weights cannot be adapted: give more GPUs, or adapt a smaller model. With its "
            "factors a model needs about 2.4 times its weights, and for merged rollouts 3.4 times (docs/cost.md)."
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of `model` are on more than one device."""
    return len({weight.device for weight in model.parameters()}) > 1
