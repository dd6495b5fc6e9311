"""The generator protocol: examples in, completions out.

Whoever answers has this one method: a Hugging Face model, a vLLM engine, a two-pass system. Evaluation, training and
searches never know which one they ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from t2.types import Completion, Example, Sampling

# Which weights answer: the adapter's merged ones, whatever it shows at the moment, or the base's.
Worn = Literal["merged", "as_is", "base"]


@runtime_checkable
class Generator(Protocol):
    """Answers examples."""

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions (`sampling.samples`), in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context.
        """
        ...
