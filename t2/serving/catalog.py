"""The models that a server offers by name: `base`, each expert of the pool, and each strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import time

from t2.adaptation.strategy import PooledModel, Strategy
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.run.messages import check_choice, did_you_mean

BASE = "base"
LARGEST_WEIGHT = 10.0  # of a mixture given by hand: far beyond what any search finds


class UnknownModel(ValueError):
    """A name that the server does not offer."""


@dataclass(frozen=True)
class Catalog:
    """What a request can name; `pooled` is what strategies choose with, None without a pool."""

    lm: LanguageModel
    pooled: PooledModel | None = None
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time()))

    def __post_init__(self) -> None:
        """Raise ValueError for a name that means two things, or strategies without experts."""
        if self.strategies and self.pooled is None:
            raise ValueError(
                f"strategies={[*self.strategies]} choose among the experts of a pool, and experts=POOL is not given."
            )
        names = [BASE, *self.domains, *self.strategies]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"{', '.join(sorted(twice))}: each model needs a name of its own, and this one is the base's, an "
                "expert's or a strategy's as well. Rename the expert's domain, or the strategy (its `name`)."
            )

    @property
    def pool(self) -> ExpertPool | None:
        """The experts."""
        return None if self.pooled is None else self.pooled.pool

    @property
    def domains(self) -> tuple[str, ...]:
        """The experts' names, in the order of mixing weights."""
        return () if self.pool is None else self.pool.domains

    @property
    def names(self) -> tuple[str, ...]:
        """Every model's name."""
        return (BASE, *self.domains, *self.strategies)

    def find(self, name: str) -> Mixture | Strategy:
        """The mixture that a name means, or the strategy that chooses one.

        Raises:
            UnknownModel: there is none of that name.
        """
        if name in self.strategies:
            return self.strategies[name]
        if name == BASE:
            return Mixture.base(max(1, len(self.domains)))
        if name not in self.domains:
            raise UnknownModel(
                f"The model {name!r} is not served; allowed: {', '.join(self.names)}.{did_you_mean(name, self.names)}"
            )
        return Mixture.of(*(float(domain == name) for domain in self.domains))

    def mixture(self, weights: Mapping[str, float]) -> Mixture:
        """The mixture with these mixing weights by domain, 0 where none is given.

        Raises:
            ValueError: an unknown domain, or a weight that is no number of a reasonable size.
        """
        if not self.domains:
            raise ValueError("mixing_weights are for the experts of a pool, and this server has none.")
        for domain, weight in weights.items():
            check_choice("mixing_weights: the expert", domain, self.domains)
            if not math.isfinite(weight) or abs(weight) > LARGEST_WEIGHT:
                raise ValueError(
                    f"mixing_weights: that of {domain} is {weight}; allowed: -{LARGEST_WEIGHT} to {LARGEST_WEIGHT}."
                )
        return Mixture.of(*(float(weights.get(domain, 0.0)) for domain in self.domains))


def by_name(strategies: Sequence[Strategy]) -> dict[str, Strategy]:
    """Strategies by their names.

    Raises:
        ValueError: two have the same.
    """
    found: dict[str, Strategy] = {}
    for strategy in strategies:
        if strategy.name in found:
            raise ValueError(f"Two strategies are named {strategy.name!r}; give one of them another `name`.")
        found[strategy.name] = strategy
    return found
