"""A mixture: how much of each expert of a pool is applied (paper, section 3.2).

It holds mixing weights; `t2.experts.pool.ExpertPool` makes z of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MixingRule = Literal["delta", "paper"]


@dataclass(frozen=True)
class Mixture:
    """How much of each of K experts an example wears: a row of mixing weights per expert, for all matrices or one per
    matrix.

    delta    z' = 1 + Σ_k α_k (z_k - 1)     a coordinate from the base; no mixing weight is a share, any may exceed 1
    paper    z' = Σ_k α_k z_k               paper §3.2; mixing weights that sum to 1 give what `delta` gives
    """

    weights: tuple[tuple[float, ...], ...]  # (K, 1) or (K, M)
    rule: MixingRule = "delta"

    def __post_init__(self) -> None:
        """Raise ValueError for mixing weights that mean nothing."""
        rows = self.weights
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError(f"A mixture has a row of mixing weights per expert, all of one length; got {rows!r}.")
        if not all(math.isfinite(weight) for row in rows for weight in row):
            raise ValueError(f"A mixture's mixing weights are finite numbers; got {rows!r}.")
        if self.rule not in ("delta", "paper"):
            raise ValueError(f"The mixing rule is {self.rule!r}; allowed: delta, paper.")

    @classmethod
    def of(cls, *weights: float, rule: MixingRule = "delta") -> Mixture:
        """One mixing weight per expert."""
        return cls(tuple((float(weight),) for weight in weights), rule)

    @classmethod
    def base(cls, experts: int) -> Mixture:
        """No expert at all: the base model."""
        return cls.of(*(0.0,) * experts)

    @property
    def means(self) -> tuple[float, ...]:
        """Each expert's mixing weight, averaged over matrices (K,)."""
        return tuple(sum(row) / len(row) for row in self.weights)

    def normalized(self) -> Mixture:
        """The same mixture with mixing weights that sum to 1 over the experts, for every matrix.

        Raises:
            ValueError: some sum is 0.
        """
        totals = [sum(column) for column in zip(*self.weights, strict=True)]
        if any(abs(total) < 1e-12 for total in totals):
            raise ValueError(
                f"Mixing weights that sum to 0 cannot be normalized: {self.weights!r}. Give one expert a share."
            )
        rows = (tuple(a / total for a, total in zip(row, totals, strict=True)) for row in self.weights)
        return Mixture(tuple(rows), self.rule)
