"""Singular value fine-tuning (paper §3.1): one learned number per singular value of a frozen matrix.

    W = U diag(s) Vh        W' = U diag(s * z) Vh        z (R,), z = 1 is the base model

An adapted Linear has three faces, which compute the same function at the price that suits the work:

    factored   ((x Vhᵀ) * z) (U s)ᵀ   to learn: only z gets a gradient, no dense W' or dW' ever exists
    merged     x W'ᵀ                  to generate with one z: W' = W + U diag(s (z - 1)) Vh in fp32, then cast
    rows       factored, z (B, R)     to adapt: every example of a batch wears its own mixture

and `disabled()`, the untouched Linear. Which matrices and which map from parameters to z: see `t2.adapters.targets`
and `t2.adapters.parametrizations`. Not done here: what z means across experts (`t2.experts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.parametrizations import Parametrization, make_parametrization
from t2.adapters.svd import Decomposition, decompose_all
from t2.adapters.targets import find_targets
from t2.sources import cache_root

FaceName = Literal["factored", "merged", "off"]


@dataclass
class Face:
    """What all layers of one adapter show now; shared by them, so that switching is one assignment."""

    name: FaceName = "factored"
    rows: bool = False


class SVFLinear(nn.Module):
    """A frozen Linear or Conv1D whose singular values are rescaled.

    In fp32 the factored face replaces the dense product (two thin ones). In half precision that would lose what z
    learned: x Vhᵀ is already on the bf16 grid and 1 ± 0.002 times it rounds back. There the change is computed apart,
    (x Vhᵀ) * (z - 1), and added inside one product with the joint weight [W | U s], whose fp32 accumulator is rounded
    once; z = 1 is then the base model again, and a step of 1e-3 is felt.
    """

    def __init__(
        self, base: nn.Linear | Conv1D, parts: Decomposition, parametrization: Parametrization, face: Face
    ) -> None:
        """Wrap `base`; `parts` is the decomposition of its weight as (n_out, n_in)."""
        super().__init__()
        self.base = base
        self.parametrization = parametrization
        self.face = face
        self.row_scales: Tensor | None = None  # (B, R)
        self.merged_weight: Tensor | None = None  # (n_out, n_in)
        weight = dense_weight(base)
        self.joint = weight.dtype in (torch.bfloat16, torch.float16)
        output_factor = (parts.U * parts.s).to(weight.dtype)
        if self.joint:
            joined = torch.cat([weight, output_factor], dim=1)  # (n_out, n_in + R)
            _set_dense_weight(base, joined[:, : weight.shape[1]])  # a view: W is held once
            self.register_buffer("joint_weight", joined, persistent=False)
            output_factor = joined[:, weight.shape[1] :]
        self.register_buffer("output_factor", output_factor, persistent=False)  # U s, (n_out, R)
        self.register_buffer("input_factor", parts.Vh.to(weight.dtype), persistent=False)  # (R, n_in)
        self.output_factor: Tensor
        self.input_factor: Tensor
        self.joint_weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n_in) -> (B, T, n_out), or without B or T where the base takes that."""
        if self.face.name == "off":
            return self.base(x)  # type: ignore[no-any-return]
        if self.face.name == "merged":
            assert self.merged_weight is not None, "the merged face is worn inside `with adapter.merged()`"
            return F.linear(x, self.merged_weight, self.base.bias)
        return self._factored(x, self._scale_for(x))

    def _scale_for(self, x: Tensor) -> Tensor:
        """z as it multiplies (x Vhᵀ): (R,), or (B, 1, R) where every example wears its own."""
        if not self.face.rows:
            z: Tensor = self.parametrization()
            return z
        rows = self.row_scales
        assert rows is not None, "the rows face is worn inside `with adapter.rows(...)`"
        assert x.ndim >= 2, f"expected (B, ..., n_in), got {tuple(x.shape)}"
        assert x.shape[0] == rows.shape[0], f"{rows.shape[0]} rows of scales for a batch of shape {tuple(x.shape)}"
        return rows.view(rows.shape[0], *(1,) * (x.ndim - 2), rows.shape[1])

    def _factored(self, x: Tensor, z: Tensor) -> Tensor:
        h = F.linear(x, self.input_factor)  # (B, T, R)
        if self.joint:
            change = (h.float() * (z - 1.0)).to(x.dtype)
            return F.linear(torch.cat([x, change], dim=-1), self.joint_weight, self.base.bias)
        return F.linear(h * z, self.output_factor, self.base.bias)

    def compose(self, z: Tensor) -> Tensor:
        """The dense W' (n_out, n_in) for one z (R,), differentiable; z = 1 gives W bit for bit."""
        weight = dense_weight(self.base)
        exact = torch.promote_types(weight.dtype, torch.float32)
        change = (self.output_factor.to(exact) * (z - 1.0).to(exact)) @ self.input_factor.to(exact)
        return (weight.to(exact) + change).to(weight.dtype)


class SVF(nn.Module):
    """The adapter: finds the matrices, decomposes them once, and holds one vector z per matrix.

    Args:
        modules: `all` (every linear of the decoder blocks), `mlp`, `attention`, one pattern or a list of them.
        layers: None for all, a list of block indices, or a fraction of the blocks (evenly spaced).
        parametrization: `direct` (paper) or `sigmoid_nuclear` (the authors' code).
        seed: seeds a random initialization where the parametrization has one.
        cache: keep decompositions on disk (under `t2.sources.cache_root()`).
        progress: show a progress bar while decomposing.
    """

    def __init__(
        self,
        modules: str | Sequence[str] = "all",
        layers: Sequence[int] | float | None = None,
        parametrization: str = "direct",
        seed: int = 0,
        cache: bool = True,
        progress: bool = True,
    ) -> None:
        """Keep the choices; nothing is computed before `inject`."""
        super().__init__()
        self.modules_spec, self.layers_spec = modules, layers
        self.parametrization, self.seed, self.cache, self.progress = parametrization, seed, cache, progress
        make_parametrization(parametrization, torch.ones(1), seed=0)  # an unknown name is an error now, not later
        self.face = Face()
        self.layers: dict[str, SVFLinear] = {}  # by the module's name in the base model; frozen, so not submodules
        self.vectors = nn.ModuleDict()  # the parametrizations alone: all that a checkpoint has to hold
        self.singular_values: dict[str, Tensor] = {}  # fp32, on the CPU

    def inject(self, model: nn.Module, source: str) -> None:
        """Wrap the chosen matrices of `model` in place; `source` names the folder of the SVD cache.

        Raises:
            ValueError: a pattern matches no matrix, a layer does not exist, or the model wears an adapter already.
        """
        targets = find_targets(model, self.modules_spec, self.layers_spec)
        folder = cache_root() / "svd" / _slug(source) if self.cache else None
        weights = {name: dense_weight(module) for name, module in targets.items()}
        for index, (name, parts) in enumerate(decompose_all(weights, folder=folder, progress=self.progress)):
            vector = make_parametrization(self.parametrization, parts.s, seed=self.seed + index)
            layer = SVFLinear(targets[name], parts, vector, self.face)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
            self.layers[name] = layer
            self.vectors[name.replace(".", "/")] = vector  # a ModuleDict key may not hold a dot
            self.singular_values[name] = parts.s.detach().cpu()

    def trainable(self) -> list[nn.Parameter]:
        """One parameter per matrix, fp32."""
        return list(self.vectors.parameters())

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """The effective multiplier z of each matrix: module name -> fp32 (R,), on the CPU."""
        return {name: layer.parametrization().detach().float().cpu().clone() for name, layer in self.layers.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Wear the given effective multipliers; matrices that `state` leaves out go back to z = 1.

        Raises:
            ValueError: a module that is not adapted, a wrong length, or a z the parametrization cannot take.
        """
        for name, z in state.items():
            if name not in self.layers:
                raise ValueError(f"No adapted matrix is called {name!r}; this adapter has {_some(self.layers)}.")
            expected = self.singular_values[name].shape
            if z.shape != expected:
                raise ValueError(f"{name}: got z of shape {tuple(z.shape)}, expected {tuple(expected)}.")
        for name, layer in self.layers.items():
            z = state.get(name, torch.ones_like(self.singular_values[name]))
            layer.parametrization.set_effective(z)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model."""
        with self._worn(Face("off")):
            yield

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within the block each matrix is the dense W' of the present z; for generating, without gradients."""
        before = {name: layer.merged_weight for name, layer in self.layers.items()}
        try:
            with torch.no_grad():
                for layer in self.layers.values():
                    layer.merged_weight = layer.compose(layer.parametrization())
            with self._worn(Face("merged")):
                yield
        finally:
            for name, layer in self.layers.items():
                layer.merged_weight = before[name]

    @contextmanager
    def rows(self, scales: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block example b of every batch wears `scales[module][b]`; each tensor is (B, R)."""
        missing = self.layers.keys() ^ scales.keys()
        if missing:
            raise ValueError(f"rows() wants scales for exactly the adapted matrices; differing: {_some(missing)}.")
        before = {name: layer.row_scales for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.row_scales = scales[name]
        try:
            with self._worn(Face("factored", rows=True)):
                yield
        finally:
            for name, layer in self.layers.items():
                layer.row_scales = before[name]

    @torch.no_grad()
    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, W') in the base's own orientation, one at a time."""
        for name, layer in self.layers.items():
            weight = layer.compose(layer.parametrization())
            yield f"{name}.weight", weight.T if isinstance(layer.base, Conv1D) else weight

    @contextmanager
    def _worn(self, face: Face) -> Iterator[None]:
        before = (self.face.name, self.face.rows)
        self.face.name, self.face.rows = face.name, face.rows
        try:
            yield
        finally:
            self.face.name, self.face.rows = before


def dense_weight(module: nn.Linear | Conv1D) -> Tensor:
    """The weight as (n_out, n_in); Conv1D (GPT-2) keeps it transposed."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def _set_dense_weight(module: nn.Linear | Conv1D, weight: Tensor) -> None:
    module.weight.data = weight.T if isinstance(module, Conv1D) else weight


def _slug(source: str) -> str:
    return Path(source).name if source.endswith(".gguf") else source.strip("/").replace("/", "--").replace(":", "-")


def _some(names: Sequence[str] | Mapping[str, object] | set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
