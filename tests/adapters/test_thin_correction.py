"""A thin layer: the closed form, its gradients, bits at z = 1, and small steps in half precision."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2.adapters.parametrizations import make_parametrization
from t2.adapters.svd import decompose
from t2.adapters.svf_linear import COLUMNS, Mode, SVFLinear, dense_weight
from t2.adapters.thin_correction import ThinCorrection
from tests.adapters.svf_layers import layer_of, random
from tests.adapters.test_svf_linear_memory import kept, storages

INDEX = torch.tensor([0, 2, 5])
SHAPES = [(12, 7), (7, 12), (9, 9)]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def thin_of(whole: SVFLinear, index: Tensor = INDEX) -> SVFLinear:
    """A layer of the same base that has numbers for some singular values."""
    base = copy.deepcopy(whole.base)
    parts = decompose(dense_weight(base)).only(index)
    return SVFLinear(base, parts, make_parametrization("direct", parts.s, seed=0), Mode())


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_a_thin_layer_is_the_whole_one_with_one_elsewhere_forward_merged_and_backward(n_out, n_in, conv):
    whole = layer_of(n_out, n_in, conv=conv)
    thin, z = thin_of(whole), 1 + 0.3 * random(3)
    whole.parametrization.set_effective(torch.ones(7 if n_out != n_in else 9).double().index_copy(0, INDEX, z))
    thin.parametrization.set_effective(z)
    x, target, found = random(2, 3, n_in, seed=2), random(2, 3, n_out, seed=3), []
    for layer in (whole, thin):
        given = x.clone().requires_grad_()
        output = layer(given)
        to_x, to_z = torch.autograd.grad(((output - target) ** 2).sum(), (given, layer.parametrization.delta))
        found.append((output, to_x, to_z[INDEX] if layer is whole else to_z, layer.compose(layer.parametrization())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    merged = F.linear(x, found[1][3], thin.base.bias)
    torch.testing.assert_close(merged, found[1][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(8,), (2, 1, 8)], ids=["one", "per example"])
def test_gradients_are_those_of_finite_differences(shape):
    weight, bias, out, inside = random(5, 4), random(5), random(5, 8), random(8, 4)
    x, d = random(2, 3, 4, seed=5).requires_grad_(), random(*shape, seed=6).requires_grad_()
    base = partial(F.linear, weight=weight, bias=bias)
    run = lambda x, d: ThinCorrection.apply(x, d, base, weight, bias, out, inside, None)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, d))


def test_each_example_has_its_own_numbers():
    layer = thin_of(layer_of(12, 7))
    x, states = random(3, 4, 7), 1 + 0.3 * random(3, 3, seed=2)
    layer.example_scales, layer.mode.per_example = states.requires_grad_(), True
    together = layer(x)
    (to_states,) = torch.autograd.grad(together.square().sum(), states)
    layer.mode.per_example = False
    for row, z in enumerate(states.detach()):
        layer.parametrization.set_effective(z)
        alone = layer(x[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-10, atol=1e-10)
        (to_z,) = torch.autograd.grad(alone.square().sum(), layer.parametrization.delta)
        torch.testing.assert_close(to_states[row], to_z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_is_the_base_bit_for_bit_and_still_has_a_gradient(dtype, conv):
    layer = thin_of(layer_of(64, 48, dtype=dtype, conv=conv))
    x = random(5, 10, 48).to(dtype)
    output = layer(x)
    assert torch.equal(output, layer.base(x))
    assert torch.equal(layer.compose(layer.parametrization()), dense_weight(layer.base))
    output.float().square().sum().backward()
    assert bool((layer.parametrization.delta.grad != 0).all())


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_step_of_one_thousandth_is_felt(dtype, per_example):
    layer = thin_of(layer_of(256, 192, dtype=dtype), torch.arange(16))
    x = random(64, 8, 192).to(dtype)
    U, s, Vh = (part[:, :16] if at == 0 else part[:16] for at, part in enumerate(torch.linalg.svd(
        dense_weight(layer.base).double(), full_matrices=False)))  # fmt: skip
    with torch.no_grad():
        base = layer(x).double()
        layer.parametrization.delta.fill_(1e-3)
        if per_example:
            layer.example_scales, layer.mode.per_example = layer.parametrization().expand(64, 16), True
        felt = layer(x).double() - base
    exact = 1e-3 * (x.double() @ Vh.T) @ (U * s).T
    assert float((felt * exact).sum() / (exact * exact).sum()) == pytest.approx(1.0, abs=0.15)


def test_the_gradient_in_bf16_is_fp32_and_points_the_right_way():
    index = torch.arange(16)
    half = thin_of(layer_of(64, 48, dtype=torch.bfloat16), index)
    exact = thin_of(layer_of(64, 48), index)
    x, weights = random(8, 4, 48), random(8, 4, 64, seed=2)
    for layer in (half, exact):
        layer.parametrization.delta.data.fill_(0.01)
        (layer(x.to(layer.input_factor.dtype)).double() * weights).sum().backward()
    gradient = half.parametrization.delta.grad
    assert gradient.dtype == torch.float32
    assert F.cosine_similarity(gradient.double(), exact.parametrization.delta.grad, dim=0) > 0.999


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_only_h_is_kept_in_the_dtype_of_the_model_and_w_is_held_once(dtype):
    layer = thin_of(layer_of(64, 48, dtype=dtype), torch.arange(16))
    layer.parametrization.delta.data.fill_(0.01)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    x = random(5, 20, 48).to(dtype).requires_grad_()
    assert kept(lambda: layer(x), own) == 5 * 20 * 16 * dtype.itemsize + 16 * 4  # h (B, T, k), and d (k,)
    weight = layer.base.weight.untyped_storage().nbytes()
    assert weight == 64 * (48 + (16 if dtype != torch.float32 else 0)) * dtype.itemsize
    assert len(storages(layer)) == (2 if dtype == torch.float32 else 1)


def test_thin_factors_have_a_multiple_of_eight_columns_which_a_cast_keeps():
    layer = thin_of(layer_of(12, 7, dtype=torch.float32))
    layer.parametrization.set_effective(torch.tensor([1.5, 1.0, 0.5]))
    x = random(3, 7)
    before, moved = layer(x.float()), copy.deepcopy(layer).to(torch.bfloat16)
    assert layer.output_factor.shape[1] % COLUMNS == layer.input_factor.shape[0] % COLUMNS == 0
    torch.testing.assert_close(moved(x.bfloat16()).float(), before, rtol=3e-2, atol=3e-2)
