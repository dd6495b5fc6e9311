"""A state of named tensors, for adapters whose state is their parameters: PEFT's and steering vectors.

The initial state is the base model. States are checked as those of SVF are (`t2.adapters.states`): names, shapes, and
nothing has changed where one is refused. Not done here: what the parameters do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2.adapters.states import check_tensors


class NamedParameters:
    """Parameters by name, the base of adapters whose state they are."""

    def __init__(self) -> None:
        """None yet; `register` gives them."""
        self.parameters: dict[str, nn.Parameter] = {}
        self._initial: dict[str, Tensor] = {}  # on the CPU

    def register(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take these, at their initial values."""
        self.parameters = dict(parameters)
        self._initial = self.state()

    def trainable(self) -> list[nn.Parameter]:
        """The parameters to optimize, fp32."""
        return list(self.parameters.values())

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """Parameter name -> fp32 tensor, detached, on the CPU."""
        return {name: p.detach().float().cpu().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state; parameters that it leaves out get their initial values.

        Raises:
            ValueError: a name that is no parameter's, or a wrong shape. Nothing has changed then.
        """
        self._check(state)
        for name, parameter in self.parameters.items():
            parameter.copy_(state.get(name, self._initial[name]))

    @contextmanager
    def holding(self, state: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Within the block the parameters have the values of `state`, initial ones where it says nothing.

        None leaves them as they are.

        Raises:
            ValueError: a name that is no parameter's, or a wrong shape.
        """
        if state is None:
            yield
            return
        self._check(state)
        before = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = state.get(name, self._initial[name]).to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = before[name]

    def change_norm(self) -> float:
        """The Euclidean norm of the change of all parameters since the start."""
        parts = [float((value - self._initial[name]).norm()) for name, value in self.state().items()]
        return float(torch.tensor(parts, dtype=torch.float64).norm())

    def state_dict(self) -> dict[str, Any]:
        """The parameters, for checkpoints."""
        return {name: parameter.data for name, parameter in self.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the parameters of a checkpoint in place; ValueError where names or shapes do not fit."""
        lacking = sorted(self.parameters.keys() - state_dict.keys())
        if lacking:
            raise ValueError(f"The checkpoint lacks {len(lacking)} parameters of the adapter, {lacking[0]} for one.")
        self.load(state_dict)

    def _check(self, state: Mapping[str, Tensor]) -> None:
        check_tensors(state, {name: tuple(value.shape) for name, value in self.parameters.items()})


class ActiveParameters(NamedParameters):
    """Those of an adapter that is no dense weight: it is active or off, and `merged()` is active without gradients."""

    name: str

    def __init__(self) -> None:
        """Active."""
        super().__init__()
        self.is_active = True

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model."""
        with self._switched(active=False):
            yield

    @contextmanager
    def merged(self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the block the parameters are those of the present state, or of `state`.

        One that `state` leaves out has its initial value, so that `{}` is the base.

        Raises:
            ValueError: `state` has names or shapes that the adapter does not, or a `dtype`, which would round merged
                weights: there are none.
        """
        if dtype is not None:
            raise ValueError(
                f"generation.dtype rounds merged weights, and adapter={self.name} makes none; set base_model.dtype and "
                "generation.dtype=null."
            )
        with self.holding(state), self._switched(active=state != {}):  # also within `disabled()`
            yield

    @contextmanager
    def _switched(self, *, active: bool) -> Iterator[None]:
        before, self.is_active = self.is_active, active
        try:
            yield
        finally:
            self.is_active = before
