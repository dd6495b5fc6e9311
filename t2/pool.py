"""A pool of experts: which domains there are, and what a mixture of them is (paper §3.2).

The order of the experts is the order of a mixture's alphas. Mixing is linear in z; the rules are those of
`t2.types.Mixture`. Nothing here chooses: see `t2.strategies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from t2.experts import Expert


@dataclass(frozen=True)
class ExpertPool:
    """Domain -> expert, in the order of a mixture's alphas; `dispatch` is an expert for choosing among them."""

    experts: Mapping[str, Expert]
    dispatch: Expert | None = None
