"""The adapter protocol: trainable parameters of a frozen model, and the modes in which they are applied.

An adapter is injected once. By default it is active and differentiable; `merged()` applies it as dense weights, for
generating with one expert, and `disabled()` gives the base model back, which is also the reference policy, so that no
second model is ever loaded. Not done here: any adapter (`t2.adapters.svf`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Adapter(Protocol):
    """Trainable parameters inside a frozen model."""

    def inject(self, model: nn.Module, source: str) -> None:
        """Replace the adapted modules of `model` by wrapped ones; `source` names the model in caches and experts."""
        ...

    def trainable(self) -> list[nn.Parameter]:
        """The parameters to optimize."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The content of an expert file: module name -> fp32 tensor, detached, on the CPU."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state; raises ValueError where names or shapes do not fit, and changes nothing then."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the model is the base model."""
        ...

    def merged(
        self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None
    ) -> AbstractContextManager[None]:
        """Within the block every adapted matrix is one dense weight without gradients.

        The weights are those of the present state, or of the one given; `dtype` rounds them, not the activations.
        """
        ...

    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, adapted dense weight (n_out, n_in)), one matrix at a time."""
        ...


@runtime_checkable
class PerExampleAdapter(Adapter, Protocol):
    """An adapter that can apply a different state to each example of a batch."""

    why_one_state: str | None  # why this model's examples cannot have states of their own; None: they can

    def learnable(self) -> dict[str, Tensor]:
        """Which multipliers can differ from 1, in what it learns and in the states it is given: module -> bool (R,)."""
        ...

    def per_example(self, scales: Mapping[str, Tensor]) -> AbstractContextManager[Callable[[Tensor], None]]:
        """Within the block state b of `scales` (module -> (D, R)) applies to example b.

        Yields a function that takes an index (N,); after it is called, state index[n] applies to example n.
        """
        ...


@runtime_checkable
class NamedAdapter(Adapter, Protocol):
    """An adapter whose state is its parameters by name, and no multipliers of singular values."""

    name: str  # as tables, files and messages call it
    frobenius_norms: dict[str, float]  # module -> that of its matrix: which model this is

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a state means: key of the configuration, without `adapter.`, -> value."""
        ...

    def change_norm(self) -> float:
        """The Euclidean norm of what training has changed of the parameters."""
        ...


@runtime_checkable
class ExportableAdapter(Adapter, Protocol):
    """An adapter that another program can read."""

    def export(self, folder: Path) -> None:
        """Write the present state into `folder`, in that program's format."""
        ...


def adapter_name(adapter: Adapter) -> str:
    """What an adapter is called in tables and records: its own name, or that of its class."""
    return adapter.name if isinstance(adapter, NamedAdapter) else type(adapter).__name__
