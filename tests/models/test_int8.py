"""Weights in 8 bits: what is stored, what is computed, and that nothing dense is kept."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from t2.models import quantized_linear
from t2.models.int8 import LARGEST, Int8Embedding, Int8Linear, quantized

DRAW = torch.Generator().manual_seed(0)
W = torch.randn(24, 40, generator=DRAW)
X = torch.randn(3, 5, 40, generator=DRAW)


def test_each_row_has_its_own_scale_and_half_a_step_of_error() -> None:
    weight = W * torch.logspace(-3, 3, 24)[:, None]  # one scale for all rows would round most of them to 0
    weight[3] = 0
    codes, scale = quantized(weight)
    layer = Int8Linear.of(weight, None)
    assert (codes.dtype, tuple(scale.shape)) == (torch.int8, (24,))
    assert codes.abs().amax(1).tolist() == [0 if row == 3 else LARGEST for row in range(24)]
    assert ((layer.dequantized() - weight).abs() <= 0.501 * scale[:, None]).all()
    assert torch.equal(layer.dequantized()[3], torch.zeros(40))
    assert layer.stored_bytes == 24 * 40 + 24 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 3e-5, 1e-5, 2e-6, 6e-7])
def test_small_rows_are_not_cut_off(dtype: torch.dtype, size: float) -> None:
    """In fp16 a scale of 8e-8 lies between 6e-8 and 12e-8."""
    weight = (size * W / W.abs().amax(1, keepdim=True)).to(dtype)
    layer = Int8Linear.of(weight, None)
    error = (layer.dequantized().double() - weight.double()).abs()
    rounding = 2 * torch.finfo(dtype).eps * weight.double().abs()  # of q * s
    assert (error <= 0.501 * layer.scale.double()[:, None] + rounding).all()
    assert layer.scale.double().max() < size / 127 * 1.01 + 6e-8
    assert layer.stored_bytes == 24 * 40 + 24 * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [2**20, 90])  # 90: two rows at a time
def test_products_and_gradients_are_those_of_the_dequantized_matrix(
    dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_linear, "PIECE", {"cpu": piece})
    layer = Int8Linear.of(W.to(dtype), torch.randn(24, generator=DRAW).to(dtype))
    x, plain = (X.to(dtype, copy=True).requires_grad_() for _ in range(2))
    y, expected = layer(x), F.linear(plain, layer.dequantized(), layer.bias)
    gradient = torch.randn(expected.shape, generator=DRAW).to(dtype)
    y.backward(gradient)
    expected.backward(gradient)
    close = {torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(y, expected, rtol=close, atol=close)
    torch.testing.assert_close(x.grad, plain.grad, rtol=close, atol=8 * close)


def test_nothing_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    layer, x = Int8Linear.of(W, None), X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        layer(x)
    assert kept == []


def test_an_embedding_looks_up_rows_and_shares_its_numbers_with_the_head() -> None:
    table = nn.Embedding(24, 40, _weight=W)
    packed = Int8Embedding(table)
    head = Int8Linear(packed.weight, packed.scale, None)
    ids = torch.tensor([[3, 0], [23, 3]])
    assert torch.equal(packed(ids), head.dequantized()[ids])
    assert head.weight is packed.weight
    assert Int8Embedding(nn.Embedding(24, 40, padding_idx=3)).padding_idx == 3  # `LanguageModel.pad_id` reads it


def test_it_moves_and_copies() -> None:
    layer = copy.deepcopy(Int8Linear.of(W, torch.ones(24))).to(torch.float64)
    assert (layer.dtype, layer(X.double()).dtype, layer.weight.dtype) == (torch.float64, torch.float64, torch.int8)


def test_a_damaged_weight_is_refused() -> None:
    damaged = W.clone()
    damaged[2, 5] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinity: it cannot be quantized"):
        quantized(damaged)
