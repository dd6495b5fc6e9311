"""How much of a model's decoder blocks an adapter adapts, and what it leaves.

Counted are the numbers in parameters of two and more dimensions: matrices, stacks of them, and kernels. Vectors (norms,
biases and stacks of them, gates of a single row) are left out, since SVF has nothing to say of them. Not done here:
choosing matrices (`t2.adapters.targets`).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.targets import decoder_blocks, is_plain
from t2.models.quantized_linear import QuantizedLinear
from t2.models.routers import ROUTER, expert_counts, is_router

log = logging.getLogger(__name__)
ENOUGH = 0.95  # below that share, `modules=all` warns
LISTED = 6  # kinds of weights that are named


@dataclass(frozen=True)
class Coverage:
    """`left` are numbers by kind of weight, such as `mixer.conv1d.weight (convolution)`, the largest first."""

    adapted: int
    total: int
    left: dict[str, int]

    @property
    def share(self) -> float:
        """What is adapted of the weights of all blocks, 0 to 1."""
        return self.adapted / self.total if self.total else 0.0

    def __str__(self) -> str:
        """The share and what is left, in one line: `98.2 %; left: mixer.conv1d.weight (convolution) 1.8 %`."""
        named = [f"{kind} {100 * count / self.total:.2g} %" for kind, count in list(self.left.items())[:LISTED]]
        named += [f"and {len(self.left) - LISTED} other kinds"] if len(self.left) > LISTED else []
        return f"{100 * self.share:.3g} %" + (f"; left: {', '.join(named)}" if named else "")

    def tell(self, *, of_all: bool) -> None:
        """Log it in one line: as a warning where everything was asked for, and much of it is left."""
        level = logging.WARNING if of_all and self.share < ENOUGH else logging.INFO
        log.log(level, "The adapter covers %s (of %d numbers in the decoder blocks).", self, self.total)


def coverage_of(model: nn.Module, modules: Collection[str], parameters: Collection[str]) -> Coverage:
    """The coverage by an adapter of these modules (their weights) and parameters, by name, before it wraps them."""
    prefix, blocks = decoder_blocks(model)
    wanted = {f"{module}.weight" for module in modules} | set(parameters)
    adapted, total, left = 0, 0, dict[str, int]()
    counts = expert_counts(model)
    for name, shape in _matrices(blocks, prefix):
        if len(shape) < 2 or (len(shape) == 2 and min(shape) == 1) or name.endswith("bias"):
            continue
        total += math.prod(shape)
        if name in wanted:
            adapted += math.prod(shape)
            continue
        within = re.sub(r"(?<=\.)\d+(?=\.)", "*", name[len(prefix) + 1 :].partition(".")[2])
        kind = f"{within} ({_why(model.get_submodule(name.rpartition('.')[0]), name, counts)})"
        left[kind] = left.get(kind, 0) + math.prod(shape)
    return Coverage(adapted, total, dict(sorted(left.items(), key=lambda item: -item[1])))


def _matrices(blocks: nn.Module, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of parameters; a quantized matrix counts as the dense one."""
    modules = blocks.named_modules(prefix=prefix)
    packed = {name: module for name, module in modules if isinstance(module, QuantizedLinear)}
    yield from ((f"{name}.weight", module.shape) for name, module in packed.items())
    for name, parameter in blocks.named_parameters(prefix=prefix):
        if not any(owner in packed for owner in _owners(name)):
            yield name, tuple(parameter.shape)


def _owners(name: str) -> Iterator[str]:
    """The modules that a parameter is in, the innermost first."""
    while name := name.rpartition(".")[0]:
        yield name


def _why(module: nn.Module, name: str, counts: set[int]) -> str:
    """Why a weight is left, in a few words."""
    path = name.rpartition(".")[0]
    if is_router(path, module, counts) or _routes(path, counts):
        return "router"
    if "conv" in type(module).__name__.lower() and not isinstance(module, Conv1D):
        return "convolution"
    if isinstance(module, nn.Linear | Conv1D | QuantizedLinear):
        return "not chosen" if is_plain(module) else "a Linear with a forward of its own"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return f"a parameter of {type(module).__name__}"


def _routes(path: str, counts: set[int]) -> bool:
    """Whether a module of a mixture is called as a router is."""
    return bool(counts) and ROUTER.fullmatch(path.rpartition(".")[2]) is not None
