"""The generator protocol: examples in, completions out.

A transformers model, a vLLM engine and a two-pass system all have this one method, so that evaluation, training and
searches need not know which one they use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.types import Completion, Example, Sampling

# Which weights generate: the adapter's, merged, or the base's.
Weights = Literal["adapted", "base"]

# Indices of D states -> those states: module -> (D, R).
PerExampleScales = Callable[[Sequence[int]], Mapping[str, Tensor]]


@runtime_checkable
class Generator(Protocol):
    """Generates completions of examples."""

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions (`sampling.samples`), in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context.
        """
        ...


@runtime_checkable
class StreamingGenerator(Generator, Protocol):
    """A generator that yields each example's completions as soon as they are finished."""

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the example, G completions), each index once, in the order in which they finish."""
        ...


@runtime_checkable
class DivisibleGenerator(Generator, Protocol):
    """A generator that completes a part of a batch as it would complete it among the whole."""

    def for_rows(self, numbers: range, total: int) -> Generator:
        """The same generator for the `len(numbers)` examples with these numbers of a batch of `total`."""
        ...


@runtime_checkable
class AdaptableGenerator(Generator, Protocol):
    """A generator that can apply another state of its adapter, while the adapter keeps its own."""

    lm: LanguageModel
    adapter: Adapter | None

    def with_state(self, state: Mapping[str, Tensor]) -> Generator:
        """The same generator under the weights merged with `state` (module -> (R,)); z = 1 where it says nothing."""
        ...


@runtime_checkable
class ApartGenerator(AdaptableGenerator, Protocol):
    """A generator whose model is not the trainer's, so that it can generate while the trainer updates."""

    max_staleness: int  # how many updates of z its completions may be behind

    @property
    def sync_seconds(self) -> float:
        """The seconds spent so far on bringing weights to where it generates."""
        ...


@runtime_checkable
class PerExampleGenerator(AdaptableGenerator, Protocol):
    """A generator that can apply a state per example, in one batch."""

    def with_per_example_scales(
        self, scales: PerExampleScales, index: Sequence[int], draws: Sequence[int] | None = None
    ) -> Generator:
        """The same generator for `len(index)` examples, of which example b gets the state with number index[b].

        Example b is sampled with the random numbers of example draws[b], by default its own.
        """
        ...
