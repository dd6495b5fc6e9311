"""The largest triplets alone: as good as those of the whole SVD, and never used where they are not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from t2.adapters import svd, truncated_svd
from t2.adapters.svd import decompose, decompose_all, decompose_top
from t2.adapters.truncated_svd import TOLERANCE, by_krylov, is_cheaper, top_triplets, triplet_error


def matrix(m: int = 500, n: int = 600, *, power: float = 0.3, dtype: torch.dtype = torch.float64) -> Tensor:
    """A matrix with singular values i^-power, which fall slowly, as those of language models do."""
    draw = torch.Generator().manual_seed(0)
    rank = min(m, n)
    U, V = (torch.linalg.qr(torch.randn(size, rank, generator=draw, dtype=torch.float64)).Q for size in (m, n))
    return (U * torch.arange(1, rank + 1).double().pow(-power) @ V.T).to(dtype)


@pytest.mark.parametrize("k", [4, 60], ids=["krylov", "eigenvectors"])
@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=str)
def test_triplets_are_those_of_the_whole_svd(dtype, exact, turned, k):
    weight = matrix(dtype=dtype).T if turned else matrix(dtype=dtype)
    assert by_krylov(weight.shape, k) is (k == 4)
    (U, s, Vh), error = top_triplets(weight, k)
    whole = decompose(weight).only(torch.arange(k))
    assert max(error, triplet_error((U, s, Vh), weight)) <= TOLERANCE
    torch.testing.assert_close(s, whole.s, rtol=exact, atol=0)
    for one, other in ((U.T, whole.U.T), (Vh, whole.Vh)):
        torch.testing.assert_close((one * other).sum(1).abs(), torch.ones(k).to(dtype), rtol=0, atol=1e-4)
    torch.testing.assert_close((U * s) @ Vh, (whole.U * whole.s) @ whole.Vh, rtol=0, atol=3e-3)


def test_eigenvectors_are_computed_in_float64_where_squares_lose_too_many_digits():
    weight = matrix(60, 80, power=3.0, dtype=torch.float32)  # the 30th singular value is 4e-5 of the first
    (_, s, _), error = top_triplets(weight, 30)
    assert error <= TOLERANCE
    torch.testing.assert_close(s, torch.arange(1, 31).float().pow(-3.0), rtol=1e-3, atol=0)
    U = torch.linalg.eigh(weight @ weight.T).eigenvectors.flip(1)[:, :30]
    in_float32 = weight.T @ U
    lengths = in_float32.norm(dim=0)
    assert triplet_error((U, lengths, (in_float32 / lengths).T), weight) > TOLERANCE


def test_eigenvectors_are_taken_where_the_iteration_does_not_get_there(monkeypatch):
    monkeypatch.setattr(truncated_svd, "BLOCKS", (1, 2))
    weight = matrix(power=0.05)
    assert by_krylov(weight.shape, 4)
    assert truncated_svd._krylov(weight, 4)[1] > TOLERANCE
    parts, error = top_triplets(weight, 4)
    assert max(error, triplet_error(parts, weight)) < 1e-6


def test_the_error_is_that_of_the_worst_triplet_on_either_side():
    weight = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    parts = decompose(weight)
    assert triplet_error((parts.U, parts.s, parts.Vh), weight) < 1e-6
    assert triplet_error((parts.U, parts.s * torch.tensor([1, 1, 1.5]), parts.Vh), weight) == pytest.approx(1 / 3)
    swapped = parts.U[:, [1, 0, 2]]
    assert triplet_error((swapped, parts.s, parts.Vh), weight) > 1


def test_triplets_that_are_off_are_not_used_and_the_log_says_so(caplog, monkeypatch):
    monkeypatch.setattr(svd, "top_triplets", lambda weight, k: (top_triplets(weight, k)[0], 2 * TOLERANCE))
    weight = matrix(40, 50)
    assert len(decompose_top(weight, 2).s) == 40
    assert "The 2 largest singular triplets of a (40, 50) matrix are off by 0.002" in caplog.text
    with pytest.raises(ValueError, match="NaN"):
        decompose_top(torch.full((4, 4), float("nan")), 2)


def run(folder: Path, weight: Tensor, k: int | None) -> int:
    """The number of triplets that one finds."""
    top = None if k is None else {"a": k}
    ((_, parts),) = decompose_all({"a": weight}, folder=folder, progress=False, top=top)
    return len(parts.s)


def test_the_cache_tells_ranks_apart_and_a_whole_decomposition_serves_all(tmp_path, monkeypatch, caplog):
    weight = matrix(dtype=torch.float32)
    assert [run(tmp_path, weight, k) for k in (4, 3, 4)] == [4, 3, 4]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    (three,) = tmp_path.glob("*.top3.safetensors")
    parts = load(three.read_bytes())
    parts["s"] *= 1.01
    three.write_bytes(save(parts))
    assert run(tmp_path, weight, 3) == 3
    assert "is damaged" in caplog.text
    assert run(tmp_path, weight, None) == 500
    monkeypatch.setattr(svd, "top_triplets", None)
    assert [run(tmp_path, weight, k) for k in (4, 5)] == [500, 500]


def test_more_than_half_of_the_triplets_are_those_of_the_whole_svd():
    assert is_cheaper(torch.Size([576, 1536]), 288)
    assert not is_cheaper(torch.Size([576, 1536]), 289)
    assert by_krylov(torch.Size([4096, 14336]), 64)
