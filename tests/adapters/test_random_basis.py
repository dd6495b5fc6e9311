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


def test_more_numbers_than_singular_values_and_a_merged_dtype_are_refused() -> None:
    lm = tiny()
    with pytest.raises(ValueError, match=r"adapter.rank is 99, and .* has \d+ singular values; take at most"):
        RandomBasis(99, cache=False).inject(lm.model, lm.source)
    _, adapter = injected("random_basis")
    with pytest.raises(ValueError, match=r"generation\.dtype=null"), adapter.merged(dtype=torch.bfloat16):
        pass
