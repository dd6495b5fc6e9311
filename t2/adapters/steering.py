"""Steering vectors: one learned vector per decoder block, added to what the block puts into the residual stream.

    h' = block(h) + v        v (d,), v = 0 is the base model

A rival of SVF with d numbers per layer (arXiv 2505.18706, bias-only adaptation trained by reinforcement learning:
0.0016 % of the parameters of a model of 8 billion). The vector is added at every position, of prompt and answer alike.

No weight matrix holds it, and a bias of the block's last matrix would round differently and does not exist in most
models: `merged()` is the active mode without gradients, and `merged_weights()` refuses. Not done here: a vector of its
own for each example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2.adapters.dense_weights import DenseWeights
from t2.adapters.named_parameters import ActiveParameters
from t2.adapters.targets import check_first, chosen_layers, decoder_blocks, find_linears, text_name


class Steering(ActiveParameters):
    """One fp32 vector per chosen decoder block.

    Args:
        layers: None for all, a list of block indices, or a fraction of the blocks (evenly spaced).
    """

    name = "steering"

    def __init__(self, layers: Sequence[int] | float | None = None) -> None:
        """Store the settings; `inject` does the work."""
        super().__init__()
        self.layers_spec = layers
        self.frobenius_norms: dict[str, float] = {}  # of the matrices in those blocks: they say which model this is

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a state means, by key of the configuration."""
        return {"layers": self.layers_spec}

    def inject(self, model: nn.Module, source: str) -> None:
        """Have the chosen decoder blocks of `model` add their vectors, which are 0.

        Raises:
            ValueError: the model has no decoder blocks, a layer does not exist, or the model has an adapter already.
        """
        check_first(self.frobenius_norms)
        prefix, blocks = decoder_blocks(model)
        targets = find_linears(model, "all", self.layers_spec)  # refuses a model that is adapted
        vectors = {}
        for index in chosen_layers(len(blocks), self.layers_spec):
            block = blocks[index]
            if any(isinstance(getattr(hook, "__self__", None), _Vector) for hook in block._forward_hooks.values()):
                raise ValueError(f"The model has an adapter already (at {prefix}.{index}); load it afresh.")
            weight = next(block.parameters())
            vector = _Vector(self, nn.Parameter(torch.zeros(_width(model), device=weight.device)))
            block.register_forward_hook(vector.add)
            vectors[text_name(model, f"{prefix}.{index}")] = vector.values
        self.frobenius_norms = {
            text_name(model, path): float(torch.linalg.vector_norm(weight.detach().float(), dtype=torch.float64))
            for path, weight in DenseWeights(targets, None).items()
        }
        self.register(vectors)

    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Raise ValueError: no weight of the base model can hold the vectors."""
        raise ValueError(
            "adapter=steering adds vectors to the residual stream, which no weight of the base model can hold, so an "
            "engine with weights of its own cannot apply them. Use generation=hf."
        )


class _Vector:
    """The vector of one block; `add` is its forward hook."""

    def __init__(self, adapter: Steering, values: nn.Parameter) -> None:
        self.adapter, self.values = adapter, values

    def add(self, block: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """The output with the vector added to its hidden states (B, T, d), in fp32, then cast back."""
        if not self.adapter.is_active:
            return None
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        steered = (hidden.float() + self.values.to(hidden.device)).to(hidden.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


def _width(model: nn.Module) -> int:
    """The width d of the residual stream."""
    width: int = model.config.get_text_config().hidden_size  # type: ignore[union-attr, operator]
    return width
