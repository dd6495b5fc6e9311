"""Singular value fine-tuning (arXiv 2501.06252, section 3.1): one trained number per singular value of a matrix.

    W = U diag(s) Vh        W' = U diag(s * z) Vh        z (R,), z = 1 is the base model

The modes of an adapted Linear compute the same function, each at the cost that suits its use:

                      x (B, T, n_in)
          _________________|__________________
         |                 |                  |
     off |        factored |           merged |
         |                 v                  v
         |         input factor Vh        x W'ᵀ with dense W' = W + U diag(s (z - 1)) Vh,
         v           (R, n_in)            summed in fp32, then cast to the weight's dtype
       x Wᵀ                | * z (R,), or (B, R) per example
                           v
                    output factor U s
                       (n_out, R)

    off           `disabled()`      the base model
    factored      the default       training: only z has a gradient, and no dense W' or dW' exists
    merged        `merged()`        generation with one z: one product, no gradient
    per example   `per_example()`   factored; each example of a batch has its own z, and no weight is written

`t2.adapters.svf_linear` says how the factored mode keeps small changes of z in half precision. Not done here: choosing
matrices (`t2.adapters.targets`), parametrizing z (`t2.adapters.parametrizations`), mixing experts (`t2.experts.pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.parametrizations import make_parametrization
from t2.adapters.svd import decompose_all
from t2.adapters.svf_linear import Mode, SVFLinear, dense_weight
from t2.adapters.targets import find_targets, text_name
from t2.run.fetch import cache_root


class SVF(nn.Module):
    """The SVF adapter: wraps the chosen matrices of a model and holds one vector z (R,) for each.

    Args:
        modules: `all` (every linear of the decoder blocks), `mlp`, `attention`, one pattern or a list of them.
        layers: None for all, a list of block indices, or a fraction of the blocks (evenly spaced).
        parametrization: `direct` (paper) or `sigmoid_nuclear` (the authors' code).
        seed: seeds a random initialization where the parametrization has one.
        cache: cache decompositions on disk (under `t2.run.fetch.cache_root()`).
        progress: show a progress bar while decomposing.

    Raises:
        ValueError: an unknown parametrization.
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
        """Store the settings; `inject` does the work."""
        super().__init__()
        self.modules_spec, self.layers_spec = modules, layers
        self.parametrization, self.seed, self.cache, self.progress = parametrization, seed, cache, progress
        make_parametrization(parametrization, torch.ones(1), seed=0)  # refuses an unknown name before a model is loaded
        self.mode = Mode()
        self.layers: dict[str, SVFLinear] = {}  # by `text_name`; frozen, hence no submodules
        self.paths: dict[str, str] = {}  # `text_name` -> the module's name in this model
        self.vectors = nn.ModuleDict()  # of parametrizations: all that a checkpoint holds
        self.singular_values: dict[str, Tensor] = {}  # `text_name` -> s (R,), fp32, on the CPU

    def inject(self, model: nn.Module, source: str) -> None:
        """Wrap the chosen matrices of `model`, which changes; `source` names the folder of the SVD cache.

        Raises:
            ValueError: a pattern matches no matrix, a layer does not exist, or the model has an adapter already.
        """
        targets = find_targets(model, self.modules_spec, self.layers_spec)
        folder = cache_root() / "svd" / _slug(source) if self.cache else None
        weights = {name: dense_weight(module) for name, module in targets.items()}
        for index, (path, parts) in enumerate(decompose_all(weights, folder=folder, progress=self.progress)):
            vector = make_parametrization(self.parametrization, parts.s, seed=self.seed + index)
            layer = SVFLinear(targets[path], parts, vector, self.mode)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
            name = text_name(model, path)
            self.paths[name] = path
            self.layers[name] = layer
            self.vectors[name.replace(".", "/")] = vector  # a ModuleDict key may not hold a dot
            self.singular_values[name] = parts.s.detach().cpu()

    def trainable(self) -> list[nn.Parameter]:
        """The parameters to optimize: one fp32 vector (R,) per matrix."""
        return list(self.vectors.parameters())

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """The effective multiplier z of each matrix: module name -> fp32 (R,), on the CPU."""
        return {name: layer.parametrization().detach().float().cpu().clone() for name, layer in self.layers.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load effective multipliers, module -> (R,); matrices that `state` leaves out are reset to z = 1.

        Raises:
            ValueError: a module that is not adapted, a wrong length, or a z that the parametrization cannot represent.
                Nothing has changed then.
        """
        self._check(state)
        for name, z in state.items():
            self.layers[name].parametrization.check(z)
        for name, layer in self.layers.items():
            z = state.get(name, torch.ones_like(self.singular_values[name]))
            layer.parametrization.set_effective(z)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model."""
        with self._switched(Mode("off")):
            yield

    @contextmanager
    def merged(self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the block each matrix is one dense W' of the present z, or of `state`, without gradients.

        Matrices that `state` leaves out have z = 1. `dtype` rounds W'; inputs are cast to it and outputs back.

        Raises:
            ValueError: `state` does not fit the adapted matrices.
        """
        if state is not None:
            self._check(state)
        before = {name: layer.merged_weight for name, layer in self.layers.items()}
        try:
            with torch.no_grad():
                for name, layer in self.layers.items():
                    layer.merged_weight = layer.compose(self._multiplier(name, state)).to(dtype)
            with self._switched(Mode("merged")):
                yield
        finally:
            for name, layer in self.layers.items():
                layer.merged_weight = before[name]

    @contextmanager
    def per_example(self, scales: Mapping[str, Tensor]) -> Iterator[Callable[[Tensor], None]]:
        """Within the block each example of a batch has its own z, one of the D in `scales` (module -> (D, R)).

        State b applies to example b until the yielded function is called with an index (N,): from then on state
        index[n] applies to example n.

        Raises:
            ValueError: the modules of `scales` are not exactly the adapted ones, or a shape does not fit.
        """
        missing = self.layers.keys() ^ scales.keys()
        if missing:
            raise ValueError(
                f"per_example() needs scales for exactly the adapted matrices; differing: {_some(missing)}."
            )
        for name, s in self.singular_values.items():
            if scales[name].ndim != 2 or scales[name].shape[1] != len(s):
                raise ValueError(f"{name}: got scales of shape {tuple(scales[name].shape)}, expected (D, {len(s)}).")
        counts = {len(states) for states in scales.values()}
        if len(counts) > 1:
            raise ValueError(f"per_example() needs the same number of states for every matrix; got {sorted(counts)}.")
        before = {name: layer.example_scales for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.example_scales = scales[name].to(layer.input_factor.device)
        try:
            with self._switched(Mode("factored", per_example=True)):
                yield self._select
        finally:
            for name, layer in self.layers.items():
                layer.example_scales = before[name]

    @torch.no_grad()
    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, W' as the base holds it) of the present z, or of `state`.

        Raises:
            ValueError: `state` does not fit the adapted matrices.
        """
        if state is not None:
            self._check(state)
        for name, layer in self.layers.items():
            weight = layer.compose(self._multiplier(name, state))
            yield f"{self.paths[name]}.weight", weight.T if isinstance(layer.base, Conv1D) else weight

    def _select(self, index: Tensor) -> None:
        self.mode.index = index

    def _multiplier(self, name: str, state: Mapping[str, Tensor] | None) -> Tensor:
        """z (R,) of one matrix, on its device."""
        layer = self.layers[name]
        if state is None:
            present: Tensor = layer.parametrization()
            return present
        z = state.get(name, torch.ones_like(self.singular_values[name]))
        return z.to(layer.input_factor.device)

    def _check(self, state: Mapping[str, Tensor]) -> None:
        for name, z in state.items():
            if name not in self.layers:
                raise ValueError(f"No adapted matrix is called {name!r}; this adapter has {_some(self.layers)}.")
            expected = self.singular_values[name].shape
            if z.shape != expected:
                raise ValueError(f"{name}: got z of shape {tuple(z.shape)}, expected {tuple(expected)}.")

    @contextmanager
    def _switched(self, mode: Mode) -> Iterator[None]:
        before = (self.mode.name, self.mode.per_example, self.mode.index)
        self.mode.name, self.mode.per_example, self.mode.index = mode.name, mode.per_example, mode.index
        try:
            yield
        finally:
            self.mode.name, self.mode.per_example, self.mode.index = before


def _slug(source: str) -> str:
    return Path(source).name if source.endswith(".gguf") else source.strip("/").replace("/", "--").replace(":", "-")


def _some(names: Sequence[str] | Mapping[str, object] | set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
