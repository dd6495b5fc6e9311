"""Weights written where an engine's model holds them: rows of fused matrices, and nothing where a layer is other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import adapted, original, random_state
from torch import Tensor, nn

from t2.adapters.svf import SVF
from t2.policy.vllm_compose import Composer, specification_of
from t2.policy.vllm_in_place import weights_in_place, write

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Plain:
    """vLLM's method of a layer that is not quantized."""

    def apply(self, layer: Any, x: Tensor, bias: None) -> Tensor:
        return layer.cpu_linear(x, layer.weight, bias) if hasattr(layer, "cpu_linear") else F.linear(x, layer.weight)


class Layer(nn.Module):
    """A layer of vLLM, which on a CPU has packed its weight away."""

    def __init__(self, dense: Tensor, packed: bool) -> None:
        super().__init__()
        self.quant_method, self.tp_size, self.params_dtype = Plain(), 1, dense.dtype
        self.weight = nn.Parameter(torch.empty(0) if packed else dense.clone(), requires_grad=False)
        if packed:
            self.cpu_linear = lambda x, weight, bias: F.linear(x, dense, bias)


def engine(packed: bool) -> nn.Module:
    """The tiny llama as vLLM holds it."""
    model = nn.Module()
    model.packed_modules_mapping = FUSED
    weights = dict(original().model.named_parameters())
    parts = {part: fused for fused, of in FUSED.items() for part in of}
    grouped: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            parent, _, leaf = name.removesuffix(".weight").rpartition(".")
            grouped.setdefault(f"{parent}.{parts.get(leaf, leaf)}", []).append(weight.data)
    for path, matrices in grouped.items():
        at = model
        *parents, leaf = path.split(".")
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        at.add_module(leaf, Layer(torch.cat(matrices), packed))
    return model


def composer_of(**settings: Any) -> tuple[SVF, Composer]:
    lm, svf = adapted(**settings)
    return svf, Composer(specification_of(lm, svf), original().model.named_parameters(), torch.device("cpu"))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("modules", ["all", ["k_proj", "down_proj"]], ids=str)
def test_the_model_computes_with_what_is_written(modules: Any, packed: bool) -> None:
    svf, composer = composer_of(modules=modules)
    model = engine(packed)
    addresses = [layer.weight.data_ptr() for layer in model.modules() if isinstance(layer, Layer)]
    places = weights_in_place(model, composer, Plain)
    assert places is not None
    x = torch.randn(5, 32)
    for seed in (1, 2, None):  # back to the base at last
        state = random_state(svf, seed) if seed is not None else {}
        write(composer, state, places)
        expected = dict(composer.compose(state))
        for parent in ("model.layers.0.self_attn", "model.layers.1.self_attn"):
            fused = model.get_submodule(f"{parent}.qkv_proj")
            want = torch.cat([expected[f"{parent}.{part}.weight"] for part in FUSED["qkv_proj"]])
            torch.testing.assert_close(fused.quant_method.apply(fused, x, None), x @ want.T)
    assert addresses == [layer.weight.data_ptr() for layer in model.modules() if isinstance(layer, Layer)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("odd", ["quantized", "sharded", "other weights", "missing"])
def test_a_layer_of_another_form_is_left_to_vllm(odd: str, packed: bool) -> None:
    _, composer = composer_of()
    model = engine(packed)
    layer = model.get_submodule("model.layers.1.mlp.down_proj")
    before = [vars(one).get("cpu_linear") for one in model.modules()]
    if odd == "quantized":
        layer.quant_method = object()
    elif odd == "sharded":
        layer.tp_size = 2
    elif odd == "missing":
        del model.get_submodule("model.layers.1.mlp").down_proj
        before.pop()
    else:
        layer.weight.data = layer.weight.data.flip(0)
        layer.cpu_linear = before[-1] = (lambda x, weight, bias: torch.zeros(len(x), 32)) if packed else None
        if not packed:
            del layer.cpu_linear
    assert weights_in_place(model, composer, Plain) is None
    assert [vars(one).get("cpu_linear") for one in model.modules()] == before, "nothing has changed"
