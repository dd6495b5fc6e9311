"""The weights of modules, one at a time, as whoever decomposes them wants them. Not done here: any decomposition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from t2.adapters.svf_linear import dense_weight
from t2.models.quantized_linear import AnyLinear


class DenseWeights(Mapping[str, Tensor]):
    """`dense_weight` of modules by path, each taken when it is asked for, after `arrive` was called with the path."""

    def __init__(self, modules: Mapping[str, AnyLinear], arrive: Callable[[str], None] | None) -> None:
        """Without `arrive` all weights are there."""
        self._modules, self._arrive = modules, arrive

    def __getitem__(self, path: str) -> Tensor:
        """The weight (n_out, n_in)."""
        if self._arrive is not None:
            self._arrive(path)
        return dense_weight(self._modules[path])

    def __iter__(self) -> Iterator[str]:
        """The paths."""
        return iter(self._modules)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._modules)
