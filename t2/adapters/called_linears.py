"""Whether a model calls the Linears that are adapted, or multiplies by the weight of one itself (Mamba's `dt_proj`).

A layer of PEFT in such a place has the base's weight: its numbers get no gradient and change nothing, unless they are
merged. SVF's layers have the adapted weight. Only a product in plain torch is recognized, in the source of the module
that holds the Linear; not recognized are fused kernels of a GPU.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from torch import nn


def check_called(model: nn.Module, paths: Iterable[str]) -> None:
    """Raise ValueError where `model` multiplies by the weight of one of the Linears at `paths` without calling it."""
    path = multiplied_by_itself(model, paths)
    if path is not None:
        raise ValueError(
            f"{type(model).__name__} multiplies by the weight of {path} itself, which adapters of PEFT do not change. "
            f"Name the modules without {path.rpartition('.')[2]} in adapter.modules, or use adapter=svf."
        )


def multiplied_by_itself(model: nn.Module, paths: Iterable[str]) -> str | None:
    """The first of the Linears at `paths` by whose weight `model` multiplies without calling it; None: it calls all."""
    sources: dict[type[nn.Module], str] = {}  # a class is looked for in the whole of its file
    for path in paths:
        parent, _, child = path.rpartition(".")
        kind = type(model.get_submodule(parent))
        if kind not in sources:
            sources[kind] = _source(kind)
        if re.search(rf"self\.{child}\.weight @", sources[kind]):
            return path
    return None


def _source(kind: type[nn.Module]) -> str:
    """The source of a class; "" of one that has none in a file, of which nothing can be said."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
