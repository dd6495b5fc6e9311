"""Where a vLLM model holds the adapted matrices, so that composed weights are written there and nowhere else.

vLLM's own way of loading reads, shards, fuses and packs every matrix, which takes longer than composing it from a thin
correction. A weight that is held as it is in the checkpoint, alone or as rows of a fused matrix (q, k, v; gate and up),
needs none of that. On a GPU it is vLLM's parameter, at the address that its graphs know. On a CPU vLLM keeps a copy
packed for oneDNN alone; there the layer gets a plain matrix, which torch multiplies.

Each layer is compared with the checkpoint before anything is changed. Not done here: quantized layers and parts of
tensor-parallel ones, which load in vLLM's own way (`t2.policy.vllm_worker`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2.policy.vllm_compose import Composer

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # of products, relative to the largest


@torch.no_grad()
def weights_in_place(model: nn.Module, composer: Composer, plain: type) -> dict[str, Tensor] | None:
    """The tensors (n_out, n_in) that a model multiplies with, by the name of each weight of `composer`.

    The model has to hold the base's weights. `plain` is the method of a layer that is not quantized. None where a layer
    holds its weights in another form; nothing has changed then.
    """
    fused_of = {
        part: (fused, list(parts))
        for fused, parts in getattr(model, "packed_modules_mapping", {}).items()
        for part in parts
    }
    found: dict[str, Tensor] = {}
    layers: list[tuple[Any, Tensor]] = []
    for name in composer.factors:
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        fused, parts = fused_of.get(leaf, (leaf, [leaf]))
        names = [f"{parent}.{part}.weight" for part in parts]
        if name in found:
            continue
        layer = _layer(model, f"{parent}.{fused}", plain)
        if layer is None or any(one not in composer.weights for one in names):
            return None
        dense = _held(layer, torch.cat([composer.weights[one] for one in names]))
        if dense is None:
            return None
        layers.append((layer, dense))
        found |= zip(names, torch.split(dense, [len(composer.weights[one]) for one in names]), strict=True)
    for layer, dense in layers:
        if hasattr(layer, "cpu_linear"):
            layer.cpu_linear = _times(dense)
    return found


@torch.no_grad()
def write(composer: Composer, state: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    """Write the weights of a state, z (k,) by module, where the model holds them."""
    for name, weight in composer.compose(state):
        if name in composer.factors:  # what is fused with it stays as it is
            places[name].copy_(weight)


def _layer(model: nn.Module, path: str, plain: type) -> Any:
    """The layer with this name, None where there is none or where it holds its weights in another form."""
    try:
        layer: Any = model.get_submodule(path)
    except AttributeError:
        return None
    fits = isinstance(getattr(layer, "quant_method", None), plain) and getattr(layer, "tp_size", 1) == 1
    return layer if fits else None


def _held(layer: Any, dense: Tensor) -> Tensor | None:
    """The tensor that a layer multiplies with, a new one on a CPU; None unless it is the matrix `dense`."""
    dtype = layer.params_dtype
    dense = dense.to(dtype)
    x = torch.randn(3, dense.shape[1], generator=torch.Generator().manual_seed(0)).to(dense)
    if not hasattr(layer, "cpu_linear"):
        same = layer.weight.shape == dense.shape and torch.equal(layer.weight.data, dense)
        return layer.weight.data if same else None
    expected, got = F.linear(x, dense), layer.quant_method.apply(layer, x, None)
    if got.shape != expected.shape:
        return None
    near = float((got - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())
    return dense if near else None


def _times(dense: Tensor) -> Any:
    return lambda x, weight, bias: F.linear(x, dense, bias)
