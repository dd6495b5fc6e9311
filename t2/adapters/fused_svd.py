"""Singular value decompositions of the matrices of one 3-D parameter (E, m, n), such as a layer's experts.

    W[e] = U[e] diag(s[e]) Vh[e]        U (E, m, R), s (E, R), Vh (E, R, n)        (arXiv 2501.06252, section 3.1)

Several matrices are decomposed by one call, as many as fit `CHUNK_NUMBERS`, so that a GPU has enough to do and memory
stays bounded. Every matrix is checked as `t2.adapters.svd` does, and one that fails is decomposed alone. A parameter is
one file of the cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2.adapters.svd import TOLERANCE, Decomposition, content_key, decompose, decompose_top, reconstruction_error
from t2.adapters.truncated_svd import TOLERANCE as TRIPLET_TOLERANCE
from t2.adapters.truncated_svd import is_cheaper, triplet_error
from t2.run.files import read_tensors, save_tensors
from t2.run.folder_lock import one_at_a_time

log = logging.getLogger(__name__)
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
    found = _cached(whole, weight, k)
    if found is None:
        with one_at_a_time(folder):
            found = _cached(whole, weight, k)  # another process may just have computed it
            if found is None:
                found = _computed(weight, k)
                save_tensors(_file(whole, k), {"U": found.U, "s": found.s, "Vh": found.Vh})
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


def _file(whole: Path, k: int | None) -> Path:
    return whole if k is None else whole.with_suffix(f".top{k}.safetensors")


def _cached(whole: Path, weight: Tensor, k: int | None) -> Decomposition | None:
    found = _read(whole, weight, None)
    return _read(_file(whole, k), weight, k) if found is None and k is not None else found


def _read(path: Path, weight: Tensor, k: int | None) -> Decomposition | None:
    """The decomposition in a file; None where there is no file, or a damaged one."""
    if not path.exists():
        return None
    try:
        tensors, _ = read_tensors(path)
        parts = _checked(tensors, weight, k)
    except ValueError as error:  # e.g. a disk that lost the end of the file
        log.warning("%s is damaged (%s) and is computed again.", path, error)
        return None
    return parts


def _checked(tensors: Mapping[str, Tensor], weight: Tensor, k: int | None) -> Decomposition:
    """The tensors of a file on the device of W (E, m, n); ValueError where they are not its decompositions."""
    (count, m, n), rank = weight.shape, min(weight.shape[1:]) if k is None else k
    expected = {"U": (count, m, rank), "s": (count, rank), "Vh": (count, rank, n)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError(f"it holds {found}, expected float32 {expected}")
    stack = Decomposition(*(tensors[name].to(weight.device) for name in expected))
    for index, matrix in enumerate(weight):
        parts = Decomposition(stack.U[index], stack.s[index], stack.Vh[index])
        if k is None:
            error, allowed = reconstruction_error(parts, matrix.float()), TOLERANCE * torch.finfo(torch.float32).eps
        else:
            error, allowed = triplet_error((parts.U, parts.s, parts.Vh), matrix.float()), TRIPLET_TOLERANCE
        if not error <= allowed:
            raise ValueError(f"U diag(s) Vh is not matrix {index}, by {error:.1e} of its size")
    return stack
