"""The strategy protocol: chooses a mixture of a pool's experts for each example (paper §3.2).

A strategy gets the model as a `PooledModel` and keeps no reference to it, so that one strategy serves many models. Its
result is a `Choice` per example; `t2.adaptation.two_pass` generates with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from t2.adapters.base import Adapter, PerExampleAdapter
from t2.adapters.svf import SVF
from t2.adapters.unmerged import unmerged
from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.generator import AdaptableGenerator, PerExampleGenerator
from t2.tasks.base import Task
from t2.types import Completion, Example, Sampling

# Examples of one mixture, in the mean, from which merging it is as fast as a state per example, and faster where the
# merged weights are rounded (`bench/two_pass.py`).
MERGING_PAYS_FROM = 32


@dataclass(frozen=True)
class PooledModel:
    """A model with its generator, and the experts that can be applied to it."""

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

    @contextmanager
    def under(self, expert: Expert | None) -> Iterator[None]:
        """Within the block the model has the weights of an expert, or of the base, whatever the adapter has learned."""
        adapter = self.adapter
        if expert is None:
            applied = adapter.disabled()
        elif self.lm.quantization != "none" and isinstance(adapter, SVF):  # merges nothing
            applied = unmerged(adapter, expert.scales)
        else:
            applied = adapter.merged(expert.scales)
        with applied:
            yield


@dataclass(frozen=True)
class Choice:
    """The mixture chosen for one example.

    `label` is the domain that was chosen (`other`: the base), None where the strategy chooses none. `scores` are the
    labels' probabilities, empty where there are none, and `tokens` how many were generated to choose.
    """

    mixture: Mixture
    label: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0


def merging_pays(generator: AdaptableGenerator, examples: int, mixtures: int) -> bool:
    """Whether merging so many mixtures for so many examples is as fast as a state per example, or the only way."""
    return not applies_per_example(generator) or examples >= MERGING_PAYS_FROM * mixtures


def applies_per_example(generator: AdaptableGenerator) -> bool:
    """Whether the generator and its adapter can apply a state per example."""
    adapter = generator.adapter
    able = isinstance(adapter, PerExampleAdapter) and adapter.why_one_state is None
    return able and isinstance(generator, PerExampleGenerator)


@runtime_checkable
class Strategy(Protocol):
    """Chooses a mixture for each example."""

    name: str
    wants_support: bool  # whether `fit` uses solved examples

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Fit to solved examples of the task; does nothing in a strategy that only looks at prompts.

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


@runtime_checkable
class TrainedStrategy(Strategy, Protocol):
    """A strategy that chooses by what was trained on prompts, such as a dispatch expert."""

    def trained_on(self, pool: ExpertPool, task: Task) -> dict[str, frozenset[str] | None]:
        """What chooses on the task -> hashes of the prompts behind it (`t2.tasks.prompt_hash`), None: unknown."""
        ...


@runtime_checkable
class CompletingStrategy(Strategy, Protocol):
    """A strategy that chooses among completions, and may so have the answers once it has chosen."""

    def complete(
        self, model: PooledModel, examples: Sequence[Example], sampling: Sampling
    ) -> tuple[list[Choice], list[list[Completion]] | None]:
        """The choices of B examples, and their completions under these: None where a second pass has to make them.

        Raises:
            ValueError: as for `choose`.
        """
        ...
