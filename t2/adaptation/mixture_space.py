"""The space of mixtures that a search looks through (paper §3.2, C).

A member of a search is a vector (n,) of K mixing weights, or of K per adapted matrix; this maps members to mixtures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from t2.experts.mixture import MixingRule, Mixture
from t2.run.messages import check_choice

DECIMALS = 6  # of a mixing weight; mixtures that differ by less are one, evaluated once
ALL_ZERO = 1e-6  # mixing weights below this count as zero


@dataclass(frozen=True)
class MixtureSpace:
    """The mixtures that are searched: mixing weights in [low, high], one per expert, or per expert and matrix.

    `normalize` divides a matrix's mixing weights by their sum; sampled ones that are all zero become uniform. A member
    of nothing but zeros is the base, under either rule, also where it is outside what is searched.
    """

    low: float = 0.0
    high: float = 1.5
    per_matrix: bool = False
    normalize: bool = False
    rule: MixingRule = "delta"

    def __post_init__(self) -> None:
        """Raise ValueError for empty bounds, or bounds in which weights cannot be normalized."""
        check_choice("The mixing rule", self.rule, get_args(MixingRule))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Mixing weights lie between low={self.low} and high={self.high}; low must be below high.")
        if self.normalize and self.low < 0.0:
            raise ValueError(
                f"Mixing weights down to low={self.low} can sum to 0 or less, which cannot be normalized. "
                "Set low=0 or above, or normalize=false."
            )

    def columns(self, matrices: int) -> int:
        """Mixing weights per expert."""
        return matrices if self.per_matrix else 1

    def first(self, experts: int, matrices: int) -> Tensor:
        """The base and the uniform mixture as members (2, n), whatever the bounds."""
        size = experts * self.columns(matrices)
        return torch.tensor([[0.0] * size, [1.0 / experts] * size], dtype=torch.float64)

    def repaired(self, members: Tensor, experts: int) -> Tensor:
        """Members (P, n) whose all-zero weights of a matrix are replaced by uniform ones, if weights are normalized."""
        if not self.normalize:
            return members
        weights = members.view(len(members), experts, -1)  # (P, K, columns)
        empty = weights.sum(dim=1, keepdim=True) < ALL_ZERO
        return torch.where(empty, 1.0 / experts, weights).reshape(members.shape)

    def mixture(self, member: Tensor, experts: int) -> Mixture:
        """The mixture of a member (n,)."""
        weights = member.view(experts, -1)  # (K, columns)
        is_base = bool((weights.abs() < ALL_ZERO).all())
        if self.normalize and not is_base:
            weights = weights / weights.sum(dim=0)
        rows = tuple(tuple(round(weight, DECIMALS) for weight in row) for row in weights.tolist())
        return Mixture(rows, "delta" if is_base else self.rule)
