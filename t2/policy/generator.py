"""The generator protocol: examples in, completions out.

Whoever answers has this one method: a Hugging Mode model, a vLLM engine, a two-pass system. Evaluation, training and
searches never know which one they ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.types import Completion, Example, Sampling

# Which weights answer: the adapter's, merged, or the base's.
Weights = Literal["adapted", "base"]

# The numbers of D states -> what those are: module -> (D, R).
PerExampleScales = Callable[[Sequence[int]], Mapping[str, Tensor]]


@runtime_checkable
class Generator(Protocol):
    """Answers examples."""

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions (`sampling.samples`), in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context.
        """
        ...


@runtime_checkable
class StreamingGenerator(Generator, Protocol):
    """A generator that hands out each example's answers as soon as they are complete."""

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (place, G completions), every place once, in whatever order they end."""
        ...


@runtime_checkable
class AdaptableGenerator(Generator, Protocol):
    """A generator that can apply another state of its adapter, without touching what the adapter has learned."""

    lm: LanguageModel
    adapter: Adapter | None

    def with_state(self, state: Mapping[str, Tensor]) -> Generator:
        """The same generator under the weights merged with `state` (module -> (R,)); z = 1 where it says nothing."""
        ...


@runtime_checkable
class PerExampleGenerator(AdaptableGenerator, Protocol):
    """A generator that can apply a state per example, in one batch."""

    def with_per_example_scales(self, scales: PerExampleScales, index: Sequence[int]) -> Generator:
        """The same generator for `len(index)` examples, of which example b gets the state with number index[b]."""
        ...
