"""Strategies with one mixture for all examples: the base model, or a mixture that is given.

`Fixed` takes mixing weights by domain, the paper's uniform 1/K (§4.3: 24.47 on MATH against the base's 24.54), or a
mixture that a search has saved. Neither looks at the examples, so choices have no label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.mixture import MixingRule, Mixture
from t2.experts.mixture_file import find_mixture, load_mixture, prompts_behind
from t2.experts.pool import ExpertPool
from t2.run.messages import check_choice, did_you_mean
from t2.tasks.base import Task
from t2.types import Example


class Base:
    """The base model for every example."""

    name = "base"
    wants_support = False

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Do nothing."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """The base model for each of B examples."""
        return [Choice(Mixture.base(len(model.pool.domains)))] * len(examples)


class Fixed:
    """One mixture for every example, from exactly one of `weights`, `uniform` and `mixture`."""

    wants_support = False

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        uniform: bool | float = False,
        mixture: Path | str | None = None,
        rule: MixingRule | None = None,
        normalize: bool = False,
        name: str = "fixed",
    ) -> None:
        """Keep the mixture; whether it fits a pool is checked when there is one.

        Args:
            weights: domain -> mixing weight; domains that are left out get 0.
            uniform: True for 1/K each as in the paper, or the mixing weight that each gets.
            mixture: a saved mixture.json, or the folder that holds it.
            rule: `delta` (None means that) or `paper`; a saved mixture has its own.
            normalize: divide by the sum of the mixing weights.
            name: the system's name in reports.

        Raises:
            FileNotFoundError: there is no such mixture file.
            ValueError: none or several of the three are given, a mixing weight is not finite, or all are 0 and to be
                normalized.
        """
        given = {"weights": weights is not None, "uniform": uniform is not False, "mixture": mixture is not None}
        if sum(given.values()) != 1:
            got = " and ".join(name for name, is_given in given.items() if is_given) or "none of them"
            raise ValueError(f"A fixed strategy has exactly one of weights, uniform, mixture; got {got}.")
        if rule is not None:
            check_choice("strategy.rule", rule, get_args(MixingRule))
        if mixture is not None and rule is not None:
            raise ValueError(f"strategy.rule={rule}: a saved mixture has its own rule. Leave it null.")
        if weights is not None:
            _check_weights(weights, normalize=normalize)
        elif uniform is not False:
            _check_weights({"uniform": float(uniform)}, normalize=normalize)
        self.weights = None if weights is None else {domain: float(weight) for domain, weight in weights.items()}
        self.uniform = uniform
        self.saved = None if mixture is None else find_mixture(mixture)
        self.rule: MixingRule = "delta" if rule is None else rule
        self.normalize, self.name = normalize, name

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Do nothing."""

    def trained_on(self, pool: ExpertPool, task: Task) -> dict[str, frozenset[str] | None]:
        """The solved examples that a saved mixture was found on."""
        return {} if self.saved is None else {f"mixture {self.saved}": prompts_behind(self.saved)}

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """The same choice for each of B examples.

        Raises:
            ValueError: the mixture does not fit the pool.
        """
        return [Choice(self.mixture(model.pool))] * len(examples)

    def mixture(self, pool: ExpertPool) -> Mixture:
        """The mixture of this pool.

        Raises:
            ValueError: mixing weights of a domain that the pool has not, or a mixture that was saved for another pool.
        """
        mixture = self._mixture(pool)
        return mixture.normalized() if self.normalize else mixture

    def _mixture(self, pool: ExpertPool) -> Mixture:
        if self.saved is not None:
            return load_mixture(self.saved, pool)
        if self.weights is None:
            weight = 1 / len(pool.domains) if self.uniform is True else float(self.uniform)
            return Mixture.of(*[weight] * len(pool.domains), rule=self.rule)
        for domain in self.weights:
            if domain not in pool.domains:
                raise ValueError(
                    f"strategy.weights names {domain!r}; the pool's domains are {', '.join(pool.domains)}."
                    f"{did_you_mean(domain, pool.domains)}"
                )
        return Mixture.of(*(self.weights.get(domain, 0.0) for domain in pool.domains), rule=self.rule)


def _check_weights(weights: Mapping[str, float], *, normalize: bool) -> None:
    if not weights:
        raise ValueError("strategy.weights is empty. Name at least one domain, or use strategy=base.")
    wrong = {domain: weight for domain, weight in weights.items() if not math.isfinite(weight)}
    if wrong:
        raise ValueError(f"strategy.weights must be finite numbers; got {wrong}.")
    if normalize and abs(sum(weights.values())) < 1e-12:
        raise ValueError(
            f"Mixing weights that sum to 0 cannot be normalized: {dict(weights)}. Give one domain a share."
        )
