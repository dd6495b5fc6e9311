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

Where k of the R singular values have a number (`t2.adapters.spectrum`), the factored mode is x Wᵀ and a thin correction
of rank k, and states still have R multipliers, 1 where nothing is learned.

`t2.adapters.svf_linear` says how the factored mode keeps small changes of z in half precision. Not done here: choosing
matrices (`t2.adapters.targets`), parametrizing z (`t2.adapters.parametrizations`), mixing experts (`t2.experts.pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.parametrizations import check_shared, learned_vector, make_parametrization
from t2.adapters.spectrum import Learned, Spectrum, SpectrumName, Tie
from t2.adapters.states import check_per_example, check_state
from t2.adapters.svd import decompose_all, source_slug
from t2.adapters.svf_linear import DenseWeights, Mode, SVFLinear, dense_weight
from t2.adapters.targets import find_targets, text_name
from t2.run.fetch import cache_root
from t2.run.messages import check_choice


class SVF(nn.Module):
    """The SVF adapter: wraps the chosen matrices of a model and holds the numbers of each, z (R,) by default.

    Args:
        modules: `all` (every linear of the decoder blocks), `mlp`, `attention`, one pattern or a list of them.
        layers: None for all, a list of block indices, or a fraction of the blocks (evenly spaced).
        parametrization: `direct` (paper) or `sigmoid_nuclear` (the authors' code).
        seed: seeds a random initialization where the parametrization has one.
        cache: cache decompositions on disk (under `t2.run.fetch.cache_root()`).
        progress: show a progress bar while decomposing.
        spectrum, rank, share, groups, tie: which singular values have a number, and which numbers are shared
            (`t2.adapters.spectrum.Spectrum`); `random` draws by `seed`.
        decomposition: `auto` computes the k largest singular values alone where spectrum=top and that is cheaper;
            `full` always all.

    Raises:
        ValueError: an unknown parametrization, or a spectrum that contradicts itself or the parametrization.
    """

    def __init__(
        self,
        modules: str | Sequence[str] = "all",
        layers: Sequence[int] | float | None = None,
        parametrization: str = "direct",
        seed: int = 0,
        cache: bool = True,
        progress: bool = True,
        spectrum: SpectrumName = "all",
        rank: PositiveInt | None = None,
        share: Annotated[float, Field(gt=0, le=1)] | None = None,
        groups: PositiveInt | None = None,
        tie: Tie = "none",
        decomposition: Literal["auto", "full"] = "auto",
    ) -> None:
        """Store the settings; `inject` does the work."""
        super().__init__()
        self.spectrum = Spectrum(spectrum, rank, share, groups, tie, seed)
        check_choice("adapter.decomposition", decomposition, ("auto", "full"))
        self.modules_spec, self.layers_spec, self.decomposition = modules, layers, decomposition
        self.parametrization, self.seed, self.cache, self.progress = parametrization, seed, cache, progress
        make_parametrization(parametrization, torch.ones(1), seed=0)  # refuses an unknown name before a model is loaded
        if parametrization != "direct" and not self.spectrum.is_default:
            raise ValueError(
                f"adapter.parametrization={parametrization} needs every singular value of a matrix, each with a number "
                f"of its own; got {self.spectrum}. Set adapter.parametrization=direct."
            )
        self.mode = Mode()
        self.layers: dict[str, SVFLinear] = {}  # by `text_name`; frozen, hence no submodules
        self.paths: dict[str, str] = {}  # `text_name` -> the module's name in this model
        self.vectors = nn.ModuleDict()  # of parametrizations: all that a checkpoint holds
        self.learned: dict[str, Learned] = {}  # `text_name` -> which singular values have a number
        self.singular_values: dict[str, Tensor] = {}  # `text_name` -> s (R,), fp32, on the CPU; NaN: not computed
        self.frobenius_norms: dict[str, float] = {}  # `text_name` -> that of the matrix

    def inject(self, model: nn.Module, source: str, *, arrive: Callable[[str], None] | None = None) -> None:
        """Wrap the chosen matrices of `model`, which changes; `source` names the folder of the SVD cache.

        `arrive` is called with a matrix's name before it is read. ValueError: a pattern matches no matrix, a layer does
        not exist, or the model has an adapter already.
        """
        targets = find_targets(model, self.modules_spec, self.layers_spec)
        folder = cache_root() / "svd" / source_slug(source) if self.cache else None
        weights = DenseWeights(targets, arrive)
        sizes = {path: min(dense_weight(module).shape) for path, module in targets.items()}
        self.spectrum.check(sizes)
        truncates = self.spectrum.name == "top" and self.decomposition == "auto"
        top = {path: self.spectrum.count(size) for path, size in sizes.items()} if truncates else None
        found = decompose_all(weights, folder=folder, progress=self.progress, top=top)
        for number, (path, parts) in enumerate(found):
            name = text_name(model, path)
            s = torch.cat([parts.s, parts.s.new_full((sizes[path] - len(parts.s),), torch.nan)])
            index = self.spectrum.select(name, s, number=number)
            used = parts if len(index) == len(s) else parts.only(index)
            vector = learned_vector(
                self.vectors, name, used.s, self.spectrum, parametrization=self.parametrization, seed=self.seed + number
            )
            layer = SVFLinear(targets[path], used, vector, self.mode)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
            self.paths[name], self.layers[name] = path, layer
            self.learned[name] = Learned(name, index.cpu(), len(s))
            self.singular_values[name] = s.detach().cpu()
            self.frobenius_norms[name] = float(torch.linalg.vector_norm(weights[path].float(), dtype=torch.float64))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of singular values of each matrix, module name -> R."""
        return {name: len(s) for name, s in self.singular_values.items()}

    def trainable(self) -> list[nn.Parameter]:
        """The parameters to optimize, fp32: a vector (R,) per matrix, or what the spectrum leaves of them."""
        return list(self.vectors.parameters())

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """The effective multiplier z of each matrix: module name -> fp32 (R,), on the CPU."""
        learned = {name: layer.parametrization().detach().float().cpu() for name, layer in self.layers.items()}
        return {name: self.learned[name].full(z).clone() for name, z in learned.items()}

    def learnable(self) -> dict[str, Tensor]:
        """Which multipliers of each matrix can differ from 1: module name -> bool (R,), on the CPU."""
        return {name: learned.mask for name, learned in self.learned.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load effective multipliers, module -> (R,); matrices that `state` leaves out are reset to z = 1.

        Raises:
            ValueError: a module that is not adapted, a wrong length, or a z that the parametrization or the spectrum
                cannot represent. Nothing has changed then.
        """
        check_state(state, self.sizes)
        wanted = {name: (layer.parametrization, self._multiplier(name, state)) for name, layer in self.layers.items()}
        for name in state:
            parametrization, z = wanted[name]
            parametrization.check(z)
        check_shared(wanted)
        for parametrization, z in wanted.values():
            parametrization.set_effective(z)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model."""
        with self.mode.switched("off"):
            yield

    @contextmanager
    def merged(self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the block each matrix is one dense W' of the present z, or of `state`, without gradients.

        Matrices that `state` leaves out have z = 1. `dtype` rounds W'; inputs are cast to it and outputs back.

        Raises:
            ValueError: `state` does not fit the adapted matrices.
        """
        if state is not None:
            check_state(state, self.sizes)
        before = {name: layer.merged_weight for name, layer in self.layers.items()}
        try:
            with torch.no_grad():
                for name, layer in self.layers.items():
                    layer.merged_weight = layer.compose(self._multiplier(name, state)).to(dtype)
            with self.mode.switched("merged"):
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
            ValueError: the modules of `scales` are not exactly the adapted ones, a shape does not fit, or a multiplier
                that the spectrum leaves at 1 is not 1.
        """
        check_per_example(scales, self.sizes)
        chosen = {name: self.learned[name].of(states) for name, states in scales.items()}
        before = {name: layer.example_scales for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.example_scales = chosen[name].to(layer.input_factor.device)
        try:
            with self.mode.switched("factored", per_example=True):
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
            check_state(state, self.sizes)
        for name, layer in self.layers.items():
            weight = layer.compose(self._multiplier(name, state))
            yield f"{self.paths[name]}.weight", weight.T if isinstance(layer.base, Conv1D) else weight

    def _select(self, index: Tensor) -> None:
        self.mode.index = index

    def _multiplier(self, name: str, state: Mapping[str, Tensor] | None) -> Tensor:
        """The z of one matrix, of those singular values that have a number (k,), on its device."""
        layer = self.layers[name]
        if state is None:
            present: Tensor = layer.parametrization()
            return present
        z = state.get(name, torch.ones_like(self.singular_values[name]))
        return self.learned[name].of(z).to(layer.input_factor.device)
