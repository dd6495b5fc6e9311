"""The k largest singular triplets of a matrix, where they are cheaper than its SVD: by one of two methods.

Of few, by block Krylov iteration:

    Q   an orthonormal basis of the span of  W G, (W Wᵀ) W G, ..., (W Wᵀ)^q W G      G (n, b) Gaussian
    Qᵀ W = Ũ diag(s) Vh        U = Q Ũ        its first k triplets                     Musco and Musco, NeurIPS 2015

All b (q + 1) columns are kept, which resolves spectra that decay slowly. Plain power iteration, as in
`torch.svd_lowrank`, keeps b: on the matrices of SmolLM2 its triplets are off by 5 to 20 % after six iterations.

Of more, or where the iteration does not get there, as eigenvectors of W Wᵀ, the k largest alone (LAPACK's syevr), which
need no gaps between singular values. Squaring costs digits: u is off by about eps (s_1 / s_k)², which is 1e-5 where
s_k is a tenth of s_1.

A triplet's error is |W v - s u| / s and |Wᵀ u - s v| / s, the larger; those whose error is above the tolerance are not
used. Both methods take s and v from Wᵀ u = s v, so that their second error is zero.

Not done here: caching (`t2.adapters.svd`), singular values beyond the k largest.
"""

from __future__ import annotations

from functools import cache

import torch
from scipy.linalg import eigh
from threadpoolctl import ThreadpoolController
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]  # U (m, k), s (k,) in descending order, Vh (k, n)
TOLERANCE = 1e-3  # of a triplet's error
EXTRA = 16  # columns of a block beyond k
BLOCKS = (4, 6, 9, 13)  # q + 1, tried in turn by going on
KRYLOV_SHARE = 0.2  # of R, that the columns of the first try may be: beyond, eigenvectors cost no more
EIGENVECTOR_SHARE = 0.5  # of R, that k may be: beyond, the whole SVD costs little more


def is_cheaper(shape: torch.Size, k: int) -> bool:
    """Whether k triplets of a matrix (m, n) are cheaper than its SVD."""
    return k <= EIGENVECTOR_SHARE * min(shape)


def by_krylov(shape: torch.Size, k: int) -> bool:
    """Whether k triplets of a matrix (m, n) are few enough for block Krylov iteration."""
    return BLOCKS[0] * (k + EXTRA) <= KRYLOV_SHARE * min(shape)


@torch.no_grad()
def top_triplets(weight: Tensor, k: int) -> tuple[Triplets, float]:
    """The k largest triplets of a matrix (m, n), fp32 or float64, and the largest error among them.

    The same matrix gives the same triplets on the same device. Where the error stays above TOLERANCE, that is for the
    caller to see.
    """
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T  # (R, max)
    for way in (_krylov, _eigenvectors) if by_krylov(weight.shape, k) else (_eigenvectors,):
        found, error = way(wide, k)
        if error <= TOLERANCE:
            break
    U, s, Vh = found
    return (found if wide is weight else (Vh.T.contiguous(), s, U.T.contiguous())), error


def _krylov(wide: Tensor, k: int) -> tuple[Triplets, float]:
    """Those of a matrix (R, n), n ≥ R, by block Krylov iteration that goes on while the error is above TOLERANCE."""
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(wide.shape[1], k + EXTRA, generator=draw, dtype=wide.dtype).to(wide.device)
    image, basis = start, wide.new_empty(wide.shape[0], 0)
    images = [wide.new_empty(wide.shape[1], 0)]  # of the columns of the basis: Wᵀ Q
    for blocks in BLOCKS:
        while basis.shape[1] < min(blocks * (k + EXTRA), wide.shape[0]):
            block = _orthonormal(wide @ image, basis)
            image = wide.T @ block
            basis = torch.cat([basis, block], dim=1)
            images.append(image)
        found = _ritz(basis, torch.cat(images, dim=1), k)
        error = float(_right_errors(found, wide).max())
        if error <= TOLERANCE:
            break
    return found, error


def _eigenvectors(wide: Tensor, k: int) -> tuple[Triplets, float]:
    """Those of a matrix (R, n), n ≥ R, from the k largest eigenvectors of W Wᵀ; in float64 where they are off."""
    for dtype in dict.fromkeys((wide.dtype, torch.float64)):
        exact = wide.to(dtype)
        U = _largest_eigenvectors(exact @ exact.T, k)
        found = _completed(U, exact.T @ U, wide.dtype)
        error = float(_right_errors(found, wide).max())
        if error <= TOLERANCE:
            break
    return found, error


def _largest_eigenvectors(symmetric: Tensor, k: int) -> Tensor:
    """The eigenvectors (R, k) of the k largest eigenvalues of a matrix (R, R), the largest first."""
    size = len(symmetric)
    vectors: Tensor
    if symmetric.device.type == "cpu":
        some = [size - k, size - 1]
        # One thread: those of SciPy's library wait for work on the cores that torch's need next, and double the time.
        with _libraries().limit(limits=1, user_api="blas"):
            found = eigh(symmetric.numpy(), subset_by_index=some, driver="evr", overwrite_a=True, check_finite=False)
        vectors = torch.from_numpy(found[1])
    else:
        vectors = torch.linalg.eigh(symmetric).eigenvectors[:, size - k :]
    return vectors.flip(1)


@cache
def _libraries() -> ThreadpoolController:
    """The libraries of linear algebra that are loaded, whose threads can be limited; torch's own is not among them."""
    return ThreadpoolController()


@torch.no_grad()
def triplet_error(parts: Triplets, weight: Tensor) -> float:
    """The largest of |W v - s u| / s and |Wᵀ u - s v| / s over the triplets of W (m, n)."""
    U, s, Vh = parts
    left = _right_errors((Vh.T, s, U.T), weight.T)
    return float(torch.maximum(_right_errors(parts, weight), left).max())


def _right_errors(parts: Triplets, weight: Tensor) -> Tensor:
    """|W v - s u| / s of each triplet (k,) of W (m, n)."""
    U, s, Vh = parts
    lengths: Tensor = torch.linalg.vector_norm(weight @ Vh.T - U * s, dim=0)
    return lengths / s.clamp_min(torch.finfo(s.dtype).tiny)


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """The part of `block` (R, b) that is orthogonal to `basis`, with orthonormal columns: Gram-Schmidt, twice."""
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
    return block[:, : basis.shape[0] - basis.shape[1]]


def _ritz(basis: Tensor, images: Tensor, k: int) -> Triplets:
    """The k largest triplets of Q Qᵀ W, from the eigenvectors of Qᵀ W Wᵀ Q; Q is `basis`, Wᵀ Q `images`."""
    vectors = _largest_eigenvectors((images.T @ images).double(), k).to(basis.dtype)
    return _completed(basis @ vectors, images @ vectors, basis.dtype)


def _completed(U: Tensor, right: Tensor, dtype: torch.dtype) -> Triplets:
    """U (R, k) and Wᵀ U (n, k), whose columns have the length s, as triplets."""
    s = torch.linalg.vector_norm(right, dim=0)
    Vh = (right / s.clamp_min(torch.finfo(s.dtype).tiny)).T
    return U.to(dtype).contiguous(), s.to(dtype), Vh.to(dtype).contiguous()
