"""Decompositions of stacks: exact, cached once, checked when read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from t2.adapters import fused_svd
from t2.adapters.fused_svd import decompose_stack
from t2.adapters.svd import Decomposition
from t2.run.tensor_files import read_tensors, save_tensors


def stack(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(parts: Decomposition) -> Tensor:
    return (parts.U * parts.s[:, None, :]) @ parts.Vh


@pytest.mark.parametrize("shape", [(3, 12, 7), (3, 7, 12)])
@pytest.mark.parametrize("numbers", [1, 2**26])  # one matrix at a time, and all
def test_it_is_the_svd_of_each_matrix(
    shape: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fused_svd, "CHUNK_NUMBERS", numbers)
    weight = stack(*shape)
    for folder in (None, tmp_path, tmp_path):  # computed, written, read
        parts = decompose_stack(weight, name="x", folder=folder)
        torch.testing.assert_close(product(parts), weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.s, torch.linalg.svdvals(weight), rtol=1e-5, atol=1e-6)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_matrix_that_one_call_gets_wrong_is_decomposed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.linalg.svd

    def wrong_for_stacks(weight: Tensor, full_matrices: bool) -> tuple[Tensor, ...]:
        U, s, Vh = real(weight, full_matrices=full_matrices)
        if weight.ndim == 3:
            s = s * torch.tensor([1.0, 1.1, 1.0])[:, None]
        return U, s, Vh

    monkeypatch.setattr(torch.linalg, "svd", wrong_for_stacks)
    weight = stack(3, 6, 5)
    torch.testing.assert_close(product(decompose_stack(weight, name="x", folder=None)), weight, rtol=0, atol=1e-5)


def test_a_file_that_is_not_of_these_matrices_is_computed_again(tmp_path: Path) -> None:
    weight = stack(3, 6, 5)
    decompose_stack(weight, name="x", folder=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors, _ = read_tensors(path)
    save_tensors(path, {**tensors, "s": tensors["s"].flip(0)})
    torch.testing.assert_close(product(decompose_stack(weight, name="x", folder=tmp_path)), weight, rtol=0, atol=1e-5)
    other = stack(3, 6, 5, seed=1)
    torch.testing.assert_close(product(decompose_stack(other, name="x", folder=tmp_path)), other, rtol=0, atol=1e-5)


def test_the_largest_triplets_alone_where_they_are_cheaper(tmp_path: Path) -> None:
    basis = torch.linalg.qr(stack(2, 400, 400)).Q
    weight = (basis * 0.7 ** torch.arange(400)) @ basis.mT
    for _ in range(2):
        parts = decompose_stack(weight, name="x", folder=tmp_path, top=4)
        assert parts.s.shape == (2, 4)
        torch.testing.assert_close(parts.s, torch.linalg.svdvals(weight)[:, :4], rtol=1e-3, atol=0)
    assert [".top4." in path.name for path in tmp_path.glob("*.safetensors")] == [True]


def test_a_matrix_with_nan_is_refused() -> None:
    weight = stack(3, 6, 5)
    weight[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        decompose_stack(weight, name="x", folder=None)
