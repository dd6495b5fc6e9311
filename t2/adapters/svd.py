"""Singular value decompositions of a model's matrices, cached on disk.

W = U diag(s) Vh (paper §3.1) is computed in fp32, matrix by matrix, and stored as one safetensors file per matrix
under a hash of the matrix: an interrupted run continues where it stopped, a changed weight is decomposed again, and
processes can share a cache, because a file gets its name only when it is complete; of those that need a matrix at the
same time one computes it and the others wait. What was read or computed is
compared with the matrix at random vectors x, W x against U (s * (Vh x)) (Freivalds 1977), so that a file that was
changed is computed again.

Where the k largest triplets are enough they are computed alone, if that is cheaper (`t2.adapters.truncated_svd`), and
kept in a file that has k in its name; a file of all of them serves, too. Their error is checked, and where it is too
large the log says so and the whole decomposition is computed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from t2.adapters.truncated_svd import TOLERANCE as TRIPLET_TOLERANCE
from t2.adapters.truncated_svd import is_cheaper, top_triplets, triplet_error
from t2.run.folder_lock import one_at_a_time
from t2.run.ranks import no_bar
from t2.run.tensor_files import read_tensors, save_tensors

log = logging.getLogger(__name__)
TOLERANCE = 1000  # units in the last place; LAPACK's error is about 10, a product in TF32 would be 8000


@dataclass(frozen=True)
class Decomposition:
    """The thin SVD W (m, n) = U diag(s) Vh, with R = min(m, n) and s in descending order, or k triplets of it."""

    U: Tensor  # (m, R), or (m, k)
    s: Tensor  # (R,), or (k,)
    Vh: Tensor  # (R, n), or (k, n)

    def only(self, index: Tensor) -> Decomposition:
        """The triplets of an index (k,)."""
        return Decomposition(self.U[:, index].contiguous(), self.s[index], self.Vh[index])


def decompose(weight: Tensor) -> Decomposition:
    """Compute the thin SVD of a matrix (m, n) in fp32 (float64 stays float64), on its device.

    Raises:
        ValueError: the matrix holds NaN or infinity.
        torch.linalg.LinAlgError: the decomposition did not converge, not even in float64.
        ArithmeticError: its product is not the matrix, not even in float64 (`reconstruction_error`).
    """
    assert weight.ndim == 2, f"expected a matrix, got shape {tuple(weight.shape)}"
    exact = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    if not torch.isfinite(exact).all():
        raise ValueError(f"A weight of shape {tuple(weight.shape)} holds NaN or infinity: it has no SVD.")
    try:
        parts = _svd(exact, exact.dtype)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        if "converge" not in str(error):
            raise
        log.warning("SVD of a %s matrix did not converge in fp32; repeated in float64.", tuple(weight.shape))
        parts = _svd(exact, torch.float64)
    allowed = TOLERANCE * torch.finfo(exact.dtype).eps
    error_before = reconstruction_error(parts, exact)
    if error_before <= allowed:
        return parts
    log.warning("SVD of a %s matrix is off by %.2g; repeated in float64.", tuple(weight.shape), error_before)
    parts = _svd(exact, torch.float64)
    if not (left := reconstruction_error(parts, exact)) <= allowed:
        raise ArithmeticError(
            f"The SVD of a matrix of shape {tuple(weight.shape)} on {weight.device} is off by {left:.2g} of its size "
            f"(allowed: {allowed:.2g}). Decompose on the CPU once (base_model.device=cpu), which fills the cache."
        )
    return parts


@torch.no_grad()
def reconstruction_error(parts: Decomposition, weight: Tensor) -> float:
    """The relative error |U s Vh x - W x| / |W x| of a decomposition of W (m, n) for random x (n, 4).

    A random x sees an error in any direction with probability 1 (Freivalds 1977), at the cost of four products with a
    vector. In float64 where products may be rounded to TF32, which is on a GPU; on a CPU in the dtype of the parts,
    whose rounding is a hundredth of what is allowed.
    """
    dtype = parts.U.dtype if weight.device.type == "cpu" else torch.float64
    random = torch.Generator().manual_seed(0)
    x = torch.randn(weight.shape[1], 4, generator=random, dtype=torch.float64).to(weight.device, dtype)
    expected = weight.to(dtype) @ x
    got = parts.U.to(dtype) @ (parts.s.to(dtype)[:, None] * (parts.Vh.to(dtype) @ x))
    size = float(torch.linalg.matrix_norm(expected))
    error = float(torch.linalg.matrix_norm(got - expected))
    return error / size if size else error


def _svd(exact: Tensor, dtype: torch.dtype) -> Decomposition:
    """The thin SVD computed in `dtype` and returned in that of the matrix."""
    U, s, Vh = (part.to(exact.dtype) for part in torch.linalg.svd(exact.to(dtype), full_matrices=False))
    return Decomposition(U.contiguous(), s, Vh.contiguous())


def decompose_top(weight: Tensor, k: int) -> Decomposition:
    """The k largest triplets of a matrix (m, n) in fp32, or all R where they are not found to `TRIPLET_TOLERANCE`.

    Raises:
        ValueError, LinAlgError, ArithmeticError: as for `decompose`.
    """
    exact = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    if not torch.isfinite(exact).all():
        return decompose(weight)  # which says so
    parts, error = top_triplets(exact, k)
    if error <= TRIPLET_TOLERANCE:
        return Decomposition(*parts)
    log.warning(
        "The %d largest singular triplets of a %s matrix are off by %.2g (allowed: %.2g), since its singular values "
        "lie too close together: its whole SVD is computed.",
        k, tuple(weight.shape), error, TRIPLET_TOLERANCE,
    )  # fmt: skip
    return decompose(weight)


def decompose_all(
    weights: Mapping[str, Tensor],
    *,
    folder: Path | None,
    progress: bool = True,
    top: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, Decomposition]]:
    """Yield (name, decomposition) of every matrix (m, n): read from `folder` if cached there, else computed and cached.

    `folder=None` caches nothing. float64 matrices are never cached (they exist in tests only). Of the matrices in `top`
    (name -> k) the k largest triplets are enough: that many are yielded where they are cheaper, else all.

    Raises:
        ValueError, LinAlgError, ArithmeticError: as for `decompose`.
    """
    bar = tqdm(weights.items(), desc="SVD", unit="matrix", disable=no_bar(progress), leave=False)
    computed = 0
    for name, weight in bar:
        k = (top or {}).get(name)
        k = k if k is not None and is_cheaper(weight.shape, k) else None
        if folder is None or weight.dtype == torch.float64:
            yield name, decompose(weight) if k is None else decompose_top(weight, k)
            continue
        whole = folder / f"{name}.{content_key(weight)}.safetensors"
        found = cached(whole, weight, k)
        if found is None:
            with one_at_a_time(folder):
                found = cached(whole, weight, k)  # another process may just have computed it
                if found is None:
                    found = decompose(weight) if k is None else decompose_top(weight, k)
                    write(whole if len(found.s) == min(weight.shape) else truncated_file(whole, len(found.s)), found)
                    computed += 1
        bar.set_postfix(computed=computed, refresh=False)
        yield name, found


def cached(whole: Path, weight: Tensor, k: int | None) -> Decomposition | None:
    """What is in the file of all triplets of W (..., m, n), or in that of the k largest; None: in neither."""
    found = _read(whole, weight)
    return _read(truncated_file(whole, k), weight, k) if found is None and k is not None else found


def truncated_file(whole: Path, k: int) -> Path:
    """The file of the k largest triplets beside that of all."""
    return whole.with_suffix(f".top{k}.safetensors")


def source_slug(source: str) -> str:
    """The name of a model's folder below that of all decompositions."""
    return Path(source).name if source.endswith(".gguf") else source.strip("/").replace("/", "--").replace(":", "-")


def content_key(weight: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a matrix's shape and fp32 content, whatever its dtype."""
    digest = hashlib.sha256(str(tuple(weight.shape)).encode())
    digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _read(path: Path, weight: Tensor, k: int | None = None) -> Decomposition | None:
    """The decomposition in a file, or its k triplets; None where there is no file, or a damaged one."""
    if not path.exists():
        return None
    try:
        tensors, _ = read_tensors(path)
        parts = _as_decomposition(tensors, weight, k)
        _check(parts, weight, k)
    except ValueError as error:  # e.g. a disk that lost the end of the file
        log.warning("%s is damaged (%s) and is computed again.", path, error)
        return None
    return parts


def _as_decomposition(tensors: Mapping[str, Tensor], weight: Tensor, k: int | None) -> Decomposition:
    """The tensors of a file on the device of W (..., m, n); ValueError where they are no thin SVD of its shape."""
    (*of, m, n), rank = weight.shape, min(weight.shape[-2:]) if k is None else k
    expected = {"U": (*of, m, rank), "s": (*of, rank), "Vh": (*of, rank, n)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError(f"it holds {found}, expected float32 {expected}")
    return Decomposition(*(tensors[name].to(weight.device) for name in expected))


def _check(parts: Decomposition, weight: Tensor, k: int | None) -> None:
    """Raise ValueError where the parts are not those of W (m, n), or of each W[e] (E, m, n)."""
    matrices = [weight] if weight.ndim == 2 else list(weight)
    triplets = (
        [(parts.U, parts.s, parts.Vh)] if weight.ndim == 2 else list(zip(parts.U, parts.s, parts.Vh, strict=True))
    )
    for one, matrix in zip(triplets, matrices, strict=True):
        if k is None:
            error = reconstruction_error(Decomposition(*one), matrix.float())
            allowed = TOLERANCE * torch.finfo(torch.float32).eps
        else:
            error, allowed = triplet_error(one, matrix.float()), TRIPLET_TOLERANCE
        if not error <= allowed:
            raise ValueError(f"U diag(s) Vh is not the matrix, by {error:.1e} of its size")


def write(path: Path, parts: Decomposition) -> None:
    """Write a file of the cache."""
    save_tensors(path, {"U": parts.U, "s": parts.s, "Vh": parts.Vh})
