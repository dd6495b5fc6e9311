"""Whether each example of a batch can have a state of its own in a model, which is known once it is adapted.

Not where the model multiplies by the weight of a Linear itself (`t2.adapters.called_linears`), nor where a class of
experts sees tokens without their examples. Not done here: applying states (`t2.adapters.svf`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from t2.adapters.called_linears import multiplied_by_itself
from t2.adapters.fused import has_grouped_forward
from t2.adapters.svf_injection import Unit
from t2.adapters.svf_linear import SVFLinear


def why_one_state(model: nn.Module, units: Iterable[Unit]) -> str | None:
    """Why all examples of a batch have to have the same state, as a sentence; None where each can have its own."""
    units = list(units)
    path = multiplied_by_itself(model, [unit.path for unit in units if isinstance(unit.layer, SVFLinear)])
    if path is not None:
        return (
            f"{type(model).__name__} multiplies by the weight of {path} itself, so that examples cannot have states of "
            "their own."
        )
    for unit in units:
        if not isinstance(unit.layer, SVFLinear) and not has_grouped_forward(unit.layer.target.experts):
            return (
                f"The experts of a {type(unit.layer.target.experts).__name__} see tokens without their examples, so "
                "that examples cannot have states of their own."
            )
    return None
