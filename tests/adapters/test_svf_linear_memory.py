"""What an SVF layer holds and what it keeps for the backward pass: W once, whatever is done to it; h as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_models import IDS, adapted, logits
from torch import Tensor

from t2.adapters.svf_linear import SVFLinear
from t2.adapters.thin_correction import Scaled
from tests.adapters.svf_layers import layer_of, random

HALF = (torch.bfloat16, torch.float16)
N_OUT, N_IN, RANK = 12, 7, 7


def storages(layer: SVFLinear) -> set[int]:
    """Where the layer's matrices of size n_out lie."""
    return {tensor.untyped_storage().data_ptr() for tensor in (layer.base.weight, layer.output_factor)}


def changed(layer: SVFLinear, how: str) -> SVFLinear:
    if how == "deepcopy":
        return copy.deepcopy(layer)
    if how == "state_dict":
        layer.load_state_dict(copy.deepcopy(layer.state_dict()))
        return layer
    return layer.to(torch.float16 if how == "cast" else "cpu")


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("how", ["made", "to", "cast", "deepcopy", "state_dict"])
def test_half_precision_holds_its_weight_once_whatever_is_done_to_it(how: str, conv: bool) -> None:
    layer = layer_of(N_OUT, N_IN, conv=conv, dtype=torch.bfloat16)
    layer.parametrization.set_effective(1 + 0.1 * random(RANK).float())
    x = random(3, N_IN)
    before = layer(x.bfloat16()).double()
    other = layer if how == "made" else changed(layer, how)
    assert len(storages(other)) == 1
    assert other.base.weight.untyped_storage().nbytes() == 2 * N_OUT * (N_IN + RANK)
    torch.testing.assert_close(other(x.to(other.input_factor.dtype)).double(), before, rtol=2e-2, atol=2e-2)
    assert how != "deepcopy" or not storages(other) & storages(layer)


@pytest.mark.parametrize(("first", "then"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_cast_after_injection_is_a_layer_of_that_type(first: torch.dtype, then: torch.dtype) -> None:
    layer = layer_of(N_OUT, N_IN, dtype=first).to(then)
    fresh = layer_of(N_OUT, N_IN, dtype=then)
    assert len(storages(layer)) == len(storages(fresh))
    assert layer.parametrization.forward().dtype == torch.float32, "z keeps its type"
    x = random(3, N_IN).to(then)
    torch.testing.assert_close(layer(x), fresh(x), rtol=2e-2, atol=2e-2)


def test_a_whole_model_survives_a_copy_and_a_cast() -> None:
    lm, svf = adapted("gpt2", dtype=torch.bfloat16, spread=0.05)
    before = logits(lm)
    assert torch.equal(logits(copy.deepcopy(lm)), before)
    lm.model.to(torch.float32).to(torch.bfloat16)
    assert torch.equal(logits(lm, IDS), before)
    assert all(len(storages(layer)) == 1 for layer in svf.layers.values())


# the backward pass


def plain(h: Tensor, d: Tensor) -> Tensor:
    """What autograd keeps h in fp32 for."""
    return (h.float() * d).to(h.dtype)


@pytest.mark.parametrize("shape", [(RANK,), (3, 1, RANK)], ids=["one", "per example"])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
def test_the_product_and_its_gradients_are_those_of_autograd_bit_for_bit(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    found = []
    for function in (plain, Scaled.apply):
        h, d = random(3, 5, RANK).to(dtype).requires_grad_(), random(*shape, seed=2).float().requires_grad_()
        out = function(h, d)
        found.append((out, *torch.autograd.grad((out.double() * random(3, 5, RANK, seed=3)).sum(), (h, d))))
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("shape", [(RANK,), (2, 1, RANK)], ids=["one", "per example"])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    h, d = random(2, 3, RANK).requires_grad_(), random(*shape, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(Scaled.apply, (h, d))


def kept(run: Callable[[], Tensor], besides: set[int]) -> int:
    """Bytes that autograd keeps for the backward pass, apart from storages that are there anyway."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in besides:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(found.values())


def test_half_precision_keeps_h_in_two_bytes_and_nothing_else() -> None:
    layer = layer_of(64, 48, dtype=torch.bfloat16)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    x = random(5, 20, 48).bfloat16().requires_grad_()
    assert kept(lambda: layer(x), own) == 5 * 20 * 48 * 2 + 48 * 4  # h (B, T, R) in bf16, and z - 1 (R,)
