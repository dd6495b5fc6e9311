"""The control on random directions: as large a change as SVF's, elsewhere, and the same from the same seed."""

from __future__ import annotations

import pytest
import torch
from adapter_family import injected, move
from tiny_models import original, tiny

from t2.adapters.random_basis import RandomBasis


def changes(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """W' - W of every matrix, for the same noise in what is trained."""
    _, adapter = injected(name, seed=seed)
    move(adapter, 0.1, seed=3)
    base = original("llama").model.state_dict()
    return {one: weight - base[one] for one, weight in adapter.merged_weights()}


def test_a_change_is_as_large_as_that_of_the_largest_singular_values_and_elsewhere() -> None:
    svf, control = changes("svf_top"), changes("random_basis")
    assert svf.keys() == control.keys()
    for one in svf:
        assert control[one].norm().item() == pytest.approx(svf[one].norm().item(), rel=1e-4)
        assert abs((svf[one] * control[one]).sum()) < 0.5 * svf[one].norm() ** 2
        assert torch.linalg.matrix_rank(control[one], rtol=1e-4) == 4


def test_directions_are_those_of_the_seed_and_of_each_matrix() -> None:
    first, again, other = changes("random_basis"), changes("random_basis"), changes("random_basis", seed=1)
    assert all(torch.equal(first[one], again[one]) and not torch.equal(first[one], other[one]) for one in first)
    q, o = (first[f"model.layers.0.self_attn.{one}_proj.weight"] for one in "qo")
    assert q.shape == o.shape
    assert abs((q * o).sum()) < 0.5 * q.norm() * o.norm()


@pytest.mark.parametrize("rank", [4, 32])  # thin, and as many as a matrix has singular values
def test_half_precision_begins_at_the_base_and_keeps_small_changes(rank: int) -> None:
    """A change of 1e-3, below bf16's spacing at the output, moves it as far as it does exactly."""
    lm = tiny(dtype=torch.bfloat16)
    adapter = RandomBasis(rank, modules=["up_proj"], cache=False, progress=False)
    x = torch.randn(4, 400, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    path = "model.layers.0.mlp.up_proj"
    base = lm.model.get_submodule(path)(x).float()
    adapter.inject(lm.model, lm.source)
    layer = lm.model.get_submodule(path)
    with torch.no_grad():
        assert torch.equal(layer(x).float(), base)
        for _ in range(100):
            adapter.parameters[path] += 1e-5
        moved = layer(x).float() - base
        exact = 1e-3 * x.float() @ layer.input_factor.float().T @ layer.output_factor.float().T
    assert float((moved * exact).sum() / exact.square().sum()) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_composed_weight(dtype: torch.dtype) -> None:
    lm = tiny(dtype=dtype)
    _, adapter = injected("random_basis", lm, spread=0.1)
    path = "model.layers.1.mlp.down_proj"
    layer, d = lm.model.get_submodule(path), adapter.parameters[path]
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    (found,) = torch.autograd.grad(layer(x).float().square().mean(), d)
    (expected,) = torch.autograd.grad((x @ layer.compose(1 + d).T).float().square().mean(), d)
    torch.testing.assert_close(found, expected, rtol=1e-4 if dtype == torch.float32 else 0.1, atol=1e-3)


def test_more_numbers_than_singular_values_and_a_merged_dtype_are_refused() -> None:
    lm = tiny()
    with pytest.raises(ValueError, match=r"adapter.rank is 99, and .* has \d+ singular values; take at most"):
        RandomBasis(99, cache=False).inject(lm.model, lm.source)
    _, adapter = injected("random_basis")
    with pytest.raises(ValueError, match=r"generation\.dtype=null"), adapter.merged(dtype=torch.bfloat16):
        pass
