"""One SVF layer: what it computes, the gradient of z by every mode, and small steps in bf16."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2.adapters.svf_linear import SVFLinear, dense_weight
from tests.adapters.svf_layers import layer_of, random

SHAPES = [(12, 7), (7, 12), (9, 9)]


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_a_layer_computes_u_s_z_vh(n_out, n_in, conv):
    layer = layer_of(n_out, n_in, conv=conv)
    U, s, Vh = torch.linalg.svd(dense_weight(layer.base), full_matrices=False)
    z = random(len(s))
    layer.parametrization.set_effective(z)
    x = random(2, 3, n_in, seed=2)
    expected = x @ (U @ torch.diag(s * z) @ Vh).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(F.linear(x, layer.compose(z), layer.base.bias), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_a_layer_takes_what_its_base_takes(lead):
    layer = layer_of(12, 7)
    x = random(*lead, 7)
    torch.testing.assert_close(layer(x), layer.base(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_gradients_of_z_agree_between_the_modes(n_out, n_in, conv):
    layer = layer_of(n_out, n_in, conv=conv)
    x, target = random(4, 5, n_in, seed=2), random(4, 5, n_out, seed=3)
    z = (1 + 0.2 * random(min(n_out, n_in))).requires_grad_()

    def gradient(output: Callable[[], Tensor], of: Tensor) -> Tensor:
        (result,) = torch.autograd.grad(((output() - target) ** 2).sum(), of)
        return result

    merged = gradient(lambda: F.linear(x, layer.compose(z), layer.base.bias), z)
    layer.parametrization.set_effective(z)
    factored = gradient(lambda: layer(x), layer.parametrization.delta)
    scales = z.detach().expand(4, -1).clone().requires_grad_()
    layer.example_scales, layer.mode.per_example = scales, True
    per_example = gradient(lambda: layer(x), scales)
    torch.testing.assert_close(factored, merged, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(per_example.sum(dim=0), merged, rtol=1e-9, atol=1e-9)


# bf16


def felt_share(change: Callable[[SVFLinear, Tensor, Tensor], Tensor], delta: Tensor) -> float:
    """The change of a bf16 layer's output between z = 1 and z = 1 + delta, as a share of the exact one."""
    layer = layer_of(256, 192, dtype=torch.bfloat16)
    x = random(64, 8, 192).bfloat16()
    U, s, Vh = torch.linalg.svd(dense_weight(layer.base).double(), full_matrices=False)
    exact = (x.double() @ Vh.T * delta) @ (U * s).T
    felt = change(layer, x, 1 + delta).double() - change(layer, x, torch.ones_like(delta)).double()
    return float((felt * exact).sum() / (exact * exact).sum())


def applied(layer: SVFLinear, x: Tensor, z: Tensor) -> Tensor:
    layer.parametrization.set_effective(z)
    with torch.no_grad():
        return layer(x)


def rounded_early(layer: SVFLinear, x: Tensor, z: Tensor) -> Tensor:
    """The naive way: (x Vhᵀ) * z is rounded to bf16 before the second product."""
    scaled = F.linear(x, layer.input_factor) * z.to(x.dtype)
    return F.linear(scaled, layer.output_factor, layer.base.bias)


STEPS = {
    "uniform": torch.full((192,), 1e-3, dtype=torch.float64),
    "mixed": 1e-3 * random(192, seed=5).sign(),
}


@pytest.mark.parametrize("delta", STEPS.values(), ids=STEPS)
def test_bf16_feels_a_step_of_one_thousandth(delta):
    assert felt_share(applied, delta) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("delta", STEPS.values(), ids=STEPS)
def test_rounding_early_would_lose_that_step(delta):
    assert abs(felt_share(rounded_early, delta)) < 0.5


def test_bf16_per_example_feels_it_too():
    layer = layer_of(256, 192, dtype=torch.bfloat16)
    x = random(2, 64, 192).bfloat16()
    layer.mode.per_example = True
    layer.example_scales = torch.stack([torch.ones(192), 1 + STEPS["uniform"].float()])
    with torch.no_grad():
        both = layer(x).double()
        layer.example_scales = torch.ones(2, 192)
        base = layer(x).double()
    exact = 1e-3 * (base - layer.base.bias.double())
    assert torch.equal(both[0], base[0])
    felt = ((both - base) * exact)[1].sum() / (exact[1] ** 2).sum()
    assert float(felt) == pytest.approx(1.0, abs=0.15)


def test_bf16_gradient_of_z_is_fp32_and_points_the_right_way():
    layer, exact = (layer_of(64, 48, dtype=dtype) for dtype in (torch.bfloat16, torch.float64))
    exact.base.weight.copy_(layer.base.weight)
    x, weights = random(8, 4, 48), random(8, 4, 64, seed=2)
    (layer(x.bfloat16()).double() * weights).sum().backward()
    U, s, Vh = torch.linalg.svd(dense_weight(layer.base).double(), full_matrices=False)
    expected = ((x.bfloat16().double() @ Vh.T) * (weights @ (U * s))).sum(dim=(0, 1))
    gradient = layer.parametrization.delta.grad
    assert gradient.dtype == torch.float32
    assert F.cosine_similarity(gradient.double(), expected, dim=0) > 0.999
