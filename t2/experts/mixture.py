"""Mixtures of experts: mixing weights and the rule they are applied by (arXiv 2501.06252, section 3.2).

Not done here: computing z' from them (`t2.experts.pool.ExpertPool`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from t2.run.messages import check_choice

MixingRule = Literal["delta", "paper"]


@dataclass(frozen=True)
class Mixture:
    """Mixing weights α of K experts: one per expert for all matrices, (K, 1), or one per matrix, (K, M).

    delta    z' = 1 + Σ_k α_k (z_k - 1)     α = 0 is the base; mixing weights need not sum to 1, and may exceed it
    paper    z' = Σ_k α_k z_k               paper §3.2; equals `delta` where mixing weights sum to 1
    """

    weights: tuple[tuple[float, ...], ...]  # (K, 1) or (K, M)
    rule: MixingRule = "delta"

    def __post_init__(self) -> None:
        """Raise ValueError for mixing weights that are ragged or not finite, or an unknown rule."""
        rows = self.weights
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError(f"A mixture has a row of mixing weights per expert, all of one length; got {rows!r}.")
        if not all(math.isfinite(weight) for row in rows for weight in row):
            raise ValueError(f"A mixture's mixing weights are finite numbers; got {rows!r}.")
        check_choice("The mixing rule", self.rule, get_args(MixingRule))

    @classmethod
    def of(cls, *weights: float, rule: MixingRule = "delta") -> Mixture:
        """The mixture with one mixing weight per expert."""
        return cls(tuple((float(weight),) for weight in weights), rule)

    @classmethod
    def base(cls, experts: int) -> Mixture:
        """The mixture that applies no expert and gives the base model exactly."""
        return cls.of(*(0.0,) * experts)

    @property
    def means(self) -> tuple[float, ...]:
        """The mixing weights averaged over matrices (K,)."""
        return tuple(sum(row) / len(row) for row in self.weights)

    def normalized(self) -> Mixture:
        """The mixture with mixing weights divided by their sum over experts, for every matrix.

        Raises:
            ValueError: a sum is 0.
        """
        totals = [sum(column) for column in zip(*self.weights, strict=True)]
        if any(abs(total) < 1e-12 for total in totals):
            raise ValueError(
                f"Mixing weights that sum to 0 cannot be normalized: {self.weights!r}. Give one expert a share."
            )
        rows = (tuple(a / total for a, total in zip(row, totals, strict=True)) for row in self.weights)
        return Mixture(tuple(rows), self.rule)
