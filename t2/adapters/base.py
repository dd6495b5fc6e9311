"""The adapter protocol: what may be trained on top of a frozen model, and its modes.

An adapter is injected once and then active in one of several modes: learning (gradients reach its parameters),
`merged()` (dense weights, for generating with one expert), `disabled()` (the base model, which is also the
reference policy: no second model is ever loaded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Adapter(Protocol):
    """Trainable numbers inside a frozen model."""

    def inject(self, model: nn.Module, source: str) -> None:
        """Wrap the adapted modules of `model` in place; `source` names the model in caches and experts."""
        ...

    def trainable(self) -> list[nn.Parameter]:
        """The parameters an optimizer may change."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What an expert file holds: module name -> fp32 tensor, detached, on the CPU."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the given state; raises ValueError where names or shapes do not fit."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the model is the base model."""
        ...

    def merged(
        self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None
    ) -> AbstractContextManager[None]:
        """Within the block every adapted matrix is one dense weight; no gradients.

        Of the present state, or of the one given; `dtype` rounds the weights, not what they hold in between.
        """
        ...

    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, adapted dense weight), one matrix at a time."""
        ...


@runtime_checkable
class PerExampleAdapter(Adapter, Protocol):
    """An adapter under which every example of a batch may have a state of its own."""

    def per_example(self, scales: Mapping[str, Tensor]) -> AbstractContextManager[Callable[[Tensor], None]]:
        """Within the block example b has state b of `scales` (module -> (D, R)).

        The function given out takes an index (N,) and changes that to: example n has state index[n].
        """
        ...
