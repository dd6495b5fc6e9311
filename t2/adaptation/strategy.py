"""The strategy protocol: which mixture of a pool's experts serves each example (paper §3.2), and the simplest ones.

A strategy sees the model through `PooledModel` and holds nothing of it, so that one strategy serves many models. What
it decides is a `Choice` per example; who generates with it is `t2.adaptation.two_pass`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from t2.adapters.base import Adapter
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.generator import AdaptableGenerator
from t2.tasks.base import Task
from t2.types import Example


@dataclass(frozen=True)
class PooledModel:
    """A model, the generator that answers with it, and the experts it may apply."""

    generator: AdaptableGenerator
    pool: ExpertPool

    @property
    def lm(self) -> LanguageModel:
        """The base model."""
        return self.generator.lm

    @property
    def adapter(self) -> Adapter:
        """The adapter injected into it.

        Raises:
            ValueError: the generator has none.
        """
        if self.generator.adapter is None:
            raise ValueError("A strategy needs a generator with an adapter, and this one has none.")
        return self.generator.adapter


@dataclass(frozen=True)
class Choice:
    """What pass 1 found for one example.

    `label` is the domain that was chosen (`other`: the base), None where the strategy chooses none. `scores` are the
    labels' probabilities, empty where there are none, and `tokens` how many were generated to choose.
    """

    mixture: Mixture
    label: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0


@runtime_checkable
class Strategy(Protocol):
    """Chooses mixtures."""

    name: str

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Learn from solved examples of the task; nothing to do for a strategy that looks at prompts alone.

        Raises:
            ValueError: too few examples, or ones that cannot be used.
        """
        ...

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """B examples -> B choices, in the order of the examples.

        Raises:
            ValueError: it has not been fitted, or does not fit the pool.
        """
        ...
