"""Singular value decompositions of a model's matrices, cached on disk.

W = U diag(s) Vh (paper §3.1) is computed in fp32, matrix by matrix, and stored as one safetensors file per matrix
under a hash of the matrix: an interrupted run continues where it stopped, a changed weight is decomposed again, and
processes can share a cache, because a file gets its name only when it is complete. What was read or computed is
compared with the matrix at random vectors x, W x against U (s * (Vh x)) (Freivalds 1977), so that a file that was
changed is computed again.

Not done here: truncated or randomized decompositions. SVF needs all R singular values.
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

from t2.run.files import read_tensors, save_tensors

log = logging.getLogger(__name__)
# |W x - U s Vh x| / (|W| |x|), Frobenius norm of W: fp32 gives some 1e-6, TF32 and the like some 1e-4.
REBUILD_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Decomposition:
    """The thin SVD W (m, n) = U diag(s) Vh, with R = min(m, n) and s in descending order."""

    U: Tensor  # (m, R)
    s: Tensor  # (R,)
    Vh: Tensor  # (R, n)


def decompose(weight: Tensor) -> Decomposition:
    """Compute the thin SVD of a matrix (m, n) in fp32 (float64 stays float64), on its device.

    Raises:
        ValueError: the matrix holds NaN or infinity.
        torch.linalg.LinAlgError: the decomposition did not converge, not even in float64.
    """
    assert weight.ndim == 2, f"expected a matrix, got shape {tuple(weight.shape)}"
    exact = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    if not torch.isfinite(exact).all():
        raise ValueError(f"A weight of shape {tuple(weight.shape)} holds NaN or infinity: it has no SVD.")
    try:
        U, s, Vh = torch.linalg.svd(exact, full_matrices=False)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        if "converge" not in str(error):
            raise
        log.warning("SVD of a %s matrix did not converge in fp32; repeated in float64.", tuple(weight.shape))
        U, s, Vh = (part.to(exact.dtype) for part in torch.linalg.svd(exact.double(), full_matrices=False))
    return Decomposition(U.contiguous(), s, Vh.contiguous())


def decompose_all(
    weights: Mapping[str, Tensor], *, folder: Path | None, progress: bool = True
) -> Iterator[tuple[str, Decomposition]]:
    """Yield (name, decomposition) of every matrix (m, n): read from `folder` if cached there, else computed and cached.

    `folder=None` caches nothing. float64 matrices are never cached (they exist in tests only).

    Raises:
        ValueError: a matrix holds NaN or infinity.
        FloatingPointError: a decomposition that was just computed does not give its matrix.
    """
    bar = tqdm(weights.items(), desc="SVD", unit="matrix", disable=None if progress else True, leave=False)
    computed = 0
    for name, weight in bar:
        if folder is None or weight.dtype == torch.float64:
            yield name, _computed(name, weight)
            continue
        path = folder / f"{name}.{content_key(weight)}.safetensors"
        found = _read(path, weight)
        if found is None:
            found = _computed(name, weight)
            _write(path, found)
            computed += 1
        bar.set_postfix(computed=computed, refresh=False)
        yield name, found


def content_key(weight: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a matrix's shape and fp32 content, whatever its dtype."""
    digest = hashlib.sha256(str(tuple(weight.shape)).encode())
    digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def rebuild_error(weight: Tensor, parts: Decomposition, *, vectors: int = 4) -> float:
    """The largest |W x - U s Vh x| / (|W| |x|) over some random x of a fixed seed; NaN where a part holds one.

    W is (m, n); a difference D is missed only by an x that D maps to almost 0, which for random x is unlikely however
    D was made.
    """
    x = torch.randn(weight.shape[1], vectors, generator=torch.Generator().manual_seed(0)).to(
        weight.device, parts.s.dtype
    )
    exact = weight.detach().to(parts.s.dtype)
    difference = exact @ x - parts.U @ (parts.s[:, None] * (parts.Vh @ x))
    scale = exact.norm() * x.norm(dim=0)
    return float((difference.norm(dim=0) / scale.clamp_min(torch.finfo(scale.dtype).tiny)).max())


def _computed(name: str, weight: Tensor) -> Decomposition:
    parts = decompose(weight)
    error = rebuild_error(weight, parts)
    if not error <= REBUILD_TOLERANCE:
        raise FloatingPointError(
            f"The SVD of {name} {tuple(weight.shape)} does not give the matrix: its error is {error:.1e} of the "
            f"matrix's norm, allowed is {REBUILD_TOLERANCE:.0e}. The linear algebra library is at fault; use another "
            "device or another build of torch."
        )
    return parts


def _read(path: Path, weight: Tensor) -> Decomposition | None:
    if not path.exists():
        return None
    try:
        tensors, _ = read_tensors(path)
        parts = _as_decomposition(tensors, weight)
        error = rebuild_error(weight, parts)
        if not error <= REBUILD_TOLERANCE:
            raise ValueError(f"U diag(s) Vh is not the matrix, by {error:.1e} of its norm")
    except ValueError as error:  # e.g. a disk that lost the end of the file
        log.warning("%s is damaged (%s) and is computed again.", path, error)
        return None
    return parts


def _as_decomposition(tensors: Mapping[str, Tensor], weight: Tensor) -> Decomposition:
    """The tensors of a file on the matrix's device; ValueError where they are no thin SVD of its shape (m, n)."""
    (m, n), rank = weight.shape, min(weight.shape)
    expected = {"U": (m, rank), "s": (rank,), "Vh": (rank, n)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError(f"it holds {found}, expected float32 {expected}")
    return Decomposition(*(tensors[name].to(weight.device) for name in expected))


def _write(path: Path, parts: Decomposition) -> None:
    save_tensors(path, {"U": parts.U, "s": parts.s, "Vh": parts.Vh})
