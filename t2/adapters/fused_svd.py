"""Singular value decompositions of the matrices of one 3-D parameter (E, m, n), such as a layer's experts.

    W[e] = U[e] diag(s[e]) Vh[e]        U (E, m, R), s (E, R), Vh (E, R, n)        (arXiv 2501.06252, section 3.1)

Several matrices are decomposed by one call, as many as fit `CHUNK_NUMBERS`, so that a GPU has enough to do and memory
stays bounded. Every matrix is checked as `t2.adapters.svd` does, and one that fails is decomposed alone. A parameter is
one file of the cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from t2.adapters.svd import (
    TOLERANCE,
    Decomposition,
    cached,
    content_key,
    decompose,
    decompose_top,
    reconstruction_error,
    truncated_file,
    write,
)
from t2.adapters.truncated_svd import is_cheaper
from t2.run.folder_lock import one_at_a_time

CHUNK_NUMBERS = 2**26  # of fp32 matrices that one call decomposes: 256 MiB


def decompose_stack(weight: Tensor, *, name: str, folder: Path | None, top: int | None = None) -> Decomposition:
    """The decompositions of W (E, m, n), stacked: read from `folder` if cached there, else computed and cached.

    `name` begins the file's name, and `folder=None` caches nothing. With `top` the k largest triplets of each matrix
    are enough: that many are returned where they are cheaper, else all.

    Raises:
        ValueError, LinAlgError, ArithmeticError: as for `t2.adapters.svd.decompose`.
    """
    assert weight.ndim == 3, f"expected (E, m, n), got {tuple(weight.shape)}"
    k = top if top is not None and is_cheaper(weight.shape[1:], top) else None
    if folder is None or weight.dtype == torch.float64:
        return _computed(weight, k)
    whole = folder / f"{name}.{_stack_key(weight)}.safetensors"
    found = cached(whole, weight, k)
    if found is None:
        with one_at_a_time(folder):
            found = cached(whole, weight, k)  # another process may just have computed it
            if found is None:
                found = _computed(weight, k)
                write(whole if k is None else truncated_file(whole, k), found)
    return found


def _computed(weight: Tensor, k: int | None) -> Decomposition:
    if k is not None:
        first = torch.arange(k, device=weight.device)
        return _stacked([decompose_top(matrix, k).only(first) for matrix in weight])
    at_once = max(1, CHUNK_NUMBERS // weight[0].numel())
    return _stacked([parts for chunk in torch.split(weight, at_once) for parts in _decompose_chunk(chunk)])


def _decompose_chunk(chunk: Tensor) -> list[Decomposition]:
    """Of W (e, m, n), by one call; a matrix where that is not exact is decomposed alone, in float64 at last."""
    exact = chunk.detach() if chunk.dtype == torch.float64 else chunk.detach().float()
    if not bool(exact.isfinite().all()):
        return [decompose(matrix) for matrix in exact]  # which says so
    try:
        U, s, Vh = torch.linalg.svd(exact, full_matrices=False)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        if "converge" not in str(error):
            raise
        return [decompose(matrix) for matrix in exact]
    allowed = TOLERANCE * torch.finfo(exact.dtype).eps
    found = [Decomposition(*parts) for parts in zip(U, s, Vh, strict=True)]
    return [
        parts if reconstruction_error(parts, matrix) <= allowed else decompose(matrix)
        for parts, matrix in zip(found, exact, strict=True)
    ]


def _stacked(parts: list[Decomposition]) -> Decomposition:
    return Decomposition(*(torch.stack([getattr(one, field) for one in parts]) for field in ("U", "s", "Vh")))


def _stack_key(weight: Tensor) -> str:
    """The first 16 hex digits of a SHA-256 of all matrices' content, one after another, so that no second W stands."""
    return hashlib.sha256(" ".join(content_key(matrix) for matrix in weight).encode()).hexdigest()[:16]
