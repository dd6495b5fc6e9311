"""Which of its modes an adapter is in (`t2.adapters.svf`). Not done here: what a mode computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

ModeName = Literal["factored", "merged", "off"]


@dataclass
class Mode:
    """The mode of an adapter, shared by all of its layers, so that one assignment switches them."""

    name: ModeName = "factored"
    per_example: bool = False
    index: Tensor | None = None  # (N,): the state of each example of a batch; None: state b for example b

    @contextmanager
    def switched(self, name: ModeName, *, per_example: bool = False) -> Iterator[None]:
        """Within the block it is another mode."""
        before = (self.name, self.per_example, self.index)
        self.name, self.per_example, self.index = name, per_example, None
        try:
            yield
        finally:
            self.name, self.per_example, self.index = before
