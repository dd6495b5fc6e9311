"""Puts SVF into a model: decomposes its matrices, wraps their modules, and makes the numbers that are learned.

A unit is one Linear, or one 3-D parameter with E matrices, which are called NAME[0] to NAME[E - 1]. Linears come first,
so that their random choices do not depend on experts. Not done here: which matrices (`t2.adapters.targets`), what the
numbers mean, modes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from t2.adapters.dense_weights import DenseWeights
from t2.adapters.fused import FusedMatrices, has_grouped_forward
from t2.adapters.fused_svd import decompose_stack
from t2.adapters.fused_targets import FusedTarget
from t2.adapters.mode import Mode
from t2.adapters.parametrizations import learned_vector
from t2.adapters.spectrum import Learned, Spectrum
from t2.adapters.svd import Decomposition, decompose_all
from t2.adapters.svd_space import check_space
from t2.adapters.svf_experts import SVFExperts
from t2.adapters.svf_linear import SVFLinear, matrix_shape
from t2.adapters.targets import check_first, text_name
from t2.adapters.thin_correction import HALF
from t2.models.quantized_linear import AnyLinear, refuse_quantized
from t2.run.ranks import no_bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """What is wrapped; `learned` and the others are by the name of a matrix, in their order."""

    name: str  # `text_name`
    path: str  # of the module or parameter in the model
    layer: SVFLinear | FusedMatrices
    learned: dict[str, Learned]
    singular_values: dict[str, Tensor]  # (R,), on the CPU; NaN: not computed
    frobenius_norms: dict[str, float]

    def learned_of(self, states: Mapping[str, Tensor]) -> Tensor:
        """Of multipliers (..., R) by matrix those that have a number: (..., k), or (..., E, k) for experts.

        Raises:
            ValueError: another multiplier is not 1.
        """
        parts = [one.of(states[name]) for name, one in self.learned.items()]
        return parts[0] if isinstance(self.layer, SVFLinear) else torch.stack(parts, dim=-2)


@dataclass(frozen=True)
class Injection:
    """What all units share."""

    model: nn.Module
    spectrum: Spectrum
    parametrization: str
    seed: int
    folder: Path | None  # of the cache
    progress: bool
    truncates: bool  # the k largest singular values are enough, where they are cheaper
    mode: Mode
    vectors: nn.ModuleDict  # of parametrizations; more are added
    arrive: Callable[[str], None] | None  # called with a name before its weight is read

    def wrap(self, linears: Mapping[str, AnyLinear], stacks: Mapping[str, FusedTarget]) -> Iterator[Unit]:
        """Wrap all of them, one after another.

        Raises:
            ValueError: the spectrum does not fit a matrix, or wants another number of singular values of each expert.
        """
        check_first(self.vectors)
        sizes = {path: min(matrix_shape(module)) for path, module in linears.items()}
        self.spectrum.check(sizes | {path: min(target.weight.shape[1:]) for path, target in stacks.items()})
        if stacks and self.spectrum.name == "energy":
            raise ValueError(
                f"adapter.spectrum=energy keeps another number of singular values of each matrix, and those of the "
                f"experts in {next(iter(stacks))} need the same. Set adapter.spectrum=top with adapter.share, or leave "
                "the experts out by adapter.modules (attention, or a list of modules)."
            )
        shapes: dict[str, tuple[int, ...]] = {path: matrix_shape(module) for path, module in linears.items()}
        shapes |= {path: tuple(target.matrices.shape) for path, target in stacks.items()}
        counted = shapes if self.truncates else {}
        check_space(self.folder, shapes, {path: self.spectrum.count(min(counted[path][-2:])) for path in counted})
        yield from self._linears(linears, sizes)
        bar = tqdm(stacks.items(), desc="SVD of experts", disable=no_bar(self.progress), leave=False)
        number = len(linears)
        for path, target in bar:
            yield self._stack(path, target, number)
            number += len(target.weight)

    def _linears(self, linears: Mapping[str, AnyLinear], sizes: Mapping[str, int]) -> Iterator[Unit]:
        weights = DenseWeights(linears, self.arrive)
        top = {path: self.spectrum.count(size) for path, size in sizes.items()} if self.truncates else None
        found = decompose_all(weights, folder=self.folder, progress=self.progress, top=top)
        for number, (path, parts) in enumerate(found):
            name = text_name(self.model, path)
            s = torch.cat([parts.s, parts.s.new_full((sizes[path] - len(parts.s),), torch.nan)])
            index = self.spectrum.select(name, s, number=number)
            used = parts if len(index) == len(s) else parts.only(index)
            vector = learned_vector(
                self.vectors, name, used.s, self.spectrum, parametrization=self.parametrization, seed=self.seed + number
            )
            layer = SVFLinear(linears[path], used, vector, self.mode)
            self._put(path, layer)
            norm = float(torch.linalg.vector_norm(weights[path].float(), dtype=torch.float64))
            yield Unit(
                name, path, layer, {name: Learned(name, index.cpu(), len(s))}, {name: s.detach().cpu()}, {name: norm}
            )

    def _stack(self, path: str, target: FusedTarget, number: int) -> Unit:
        if self.arrive is not None:
            self.arrive(path)
        weight, size = target.matrices, min(target.weight.shape[1:])
        top = self.spectrum.count(size) if self.truncates else None
        parts = decompose_stack(weight, name=path, folder=self.folder, top=top)
        name = text_name(self.model, path)
        names = [f"{name}[{expert}]" for expert in range(len(weight))]
        s = torch.cat([parts.s, parts.s.new_full((len(weight), size - parts.s.shape[1]), torch.nan)], dim=1)
        index = [self.spectrum.select(one, s[e], number=number + e) for e, one in enumerate(names)]
        used = parts if len(index[0]) == size else _only(parts, torch.stack(index))
        vector = learned_vector(
            self.vectors, name, used.s, self.spectrum, parametrization=self.parametrization, seed=self.seed + number
        )
        layer = FusedMatrices(target, used, vector, self.mode)
        if weight.dtype in HALF and not has_grouped_forward(target.experts):
            log.warning(
                "%s: %s has no grouped forward pass, so W' is rounded to %s in the factored mode, and small steps of "
                "z are lost in it. Use base_model.dtype=float32, or leave the experts out (adapter.modules=attention).",
                name, type(target.experts).__name__, str(weight.dtype).removeprefix("torch."),
            )  # fmt: skip
        self._wrapper(path).matrices[target.leaf] = layer
        norms = [float(torch.linalg.vector_norm(matrix.float(), dtype=torch.float64)) for matrix in weight]
        return Unit(
            name,
            path,
            layer,
            {one: Learned(one, i.cpu(), size) for one, i in zip(names, index, strict=True)},
            dict(zip(names, s.detach().cpu().unbind(), strict=True)),
            dict(zip(names, norms, strict=True)),
        )

    def _wrapper(self, path: str) -> SVFExperts:
        """The module in the place of the experts that hold a parameter."""
        place = path.rpartition(".")[0]
        present = self.model.get_submodule(place)
        if not isinstance(present, SVFExperts):
            present = SVFExperts(present, self.mode)
            self._put(place, present)
        return present

    def _put(self, path: str, module: nn.Module) -> None:
        parent, _, child = path.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


def refuse_merging(units: Iterable[Unit]) -> None:
    """Raise ValueError where a unit's matrix is quantized, so that no dense W' can take its place."""
    for unit in units:
        if isinstance(unit.layer, SVFLinear):
            refuse_quantized(
                unit.layer.base,
                "W' has no place in them: rounded to so few bits again it would lose what z has learned, and dense it "
                "would be the model that was too large. Use generation.mode=factored, the default of a quantized base.",
            )


@contextmanager
def restored(units: Collection[Unit], attribute: str) -> Iterator[None]:
    """After the block the units' layers have what they had in `attribute`."""
    before = [getattr(unit.layer, attribute) for unit in units]
    try:
        yield
    finally:
        for unit, value in zip(units, before, strict=True):
            setattr(unit.layer, attribute, value)


def _only(parts: Decomposition, index: Tensor) -> Decomposition:
    """The triplets index[e] (k,) of each matrix e."""
    (count, m, _), n = parts.U.shape, parts.Vh.shape[2]
    columns = index.to(parts.s.device)
    return Decomposition(
        parts.U.gather(2, columns[:, None, :].expand(count, m, -1)),
        parts.s.gather(1, columns),
        parts.Vh.gather(1, columns[:, :, None].expand(count, -1, n)),
    )
