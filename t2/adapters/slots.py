"""Places of a model that hold one module or another: the adapter's layer, the base's matrix, or a merged one.

Putting the base's own module back is what makes the base exact, bit for bit. Not done here: any computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Slots:
    """The places of some modules of a model, by module name."""

    def __init__(self) -> None:
        """None yet; `find` finds them."""
        self._parents: dict[str, tuple[nn.Module, str]] = {}

    def find(self, model: nn.Module, paths: Iterable[str]) -> None:
        """Remember the places of the modules called `paths`."""
        for path in paths:
            parent, _, child = path.rpartition(".")
            self._parents[path] = (model.get_submodule(parent), child)

    @contextmanager
    def holding(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within the block the places hold `modules`, by name; afterwards what they held before."""
        before = {path: getattr(*self._parents[path]) for path in modules}
        try:
            self._fill(modules)
            yield
        finally:
            self._fill(before)

    def _fill(self, modules: Mapping[str, nn.Module]) -> None:
        for path, module in modules.items():
            setattr(*self._parents[path], module)


class Cast(nn.Module):
    """A module with its weights rounded to a dtype; inputs are cast to it and outputs back."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """`module` itself keeps its weights."""
        super().__init__()
        self.functional = (module,)  # no submodule: its parameters are not the model's
        self.rounded = {name: p.detach().to(dtype) for name, p in module.named_parameters()}
        self.dtype = dtype

    @property
    def weight(self) -> Tensor:
        """The rounded weight in the dtype that the module has it in, for models that multiply by it themselves."""
        return self.rounded["weight"].to(self.functional[0].get_parameter("weight").dtype)

    @property
    def bias(self) -> Tensor | None:
        """The rounded bias, as `weight`; None where the module has none."""
        found = self.functional[0]._parameters.get("bias")
        return None if found is None else self.rounded["bias"].to(found.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out), in the dtype of x."""
        y: Tensor = torch.func.functional_call(self.functional[0], self.rounded, (x.to(self.dtype),))
        return y.to(x.dtype)
