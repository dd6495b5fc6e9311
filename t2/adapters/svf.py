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
of rank k, and states still have R multipliers, 1 where nothing is learned. Experts that lie in one 3-D parameter are as
many matrices, NAME[0], NAME[1] and so on (`t2.adapters.fused`). `t2.adapters.svf_linear` says how the factored mode
keeps small changes of z in half precision. Not done here: choosing matrices (`t2.adapters.targets`), parametrizing z
(`t2.adapters.parametrizations`), mixing experts (`t2.experts.pool`), LoRAs in a state (`t2.adapters.low_rank`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.coverage import Coverage, coverage_of
from t2.adapters.example_states import why_one_state
from t2.adapters.low_rank import LowRankChanges
from t2.adapters.mode import Mode
from t2.adapters.parametrizations import check_shared, make_parametrization
from t2.adapters.spectrum import Learned, Spectrum, SpectrumName, Tie
from t2.adapters.states import check_state
from t2.adapters.svd import source_slug
from t2.adapters.svf_injection import Injection, Unit, refuse_merging, restored
from t2.adapters.svf_linear import SVFLinear
from t2.adapters.targets import find_matrices
from t2.run.fetch import cache_root
from t2.run.messages import check_choice


class SVF(nn.Module):
    """The SVF adapter: wraps the chosen matrices of a model and holds the numbers of each, z (R,) by default.

    Args:
        modules: `all` (every linear of the decoder blocks), `mlp`, `attention`, one pattern or a list of them.
        layers: None for all, a list of block indices, or a fraction of the blocks (evenly spaced).
        parametrization: `direct` (paper) or `sigmoid_nuclear` (the authors' code).
        seed: seeds a random initialization where the parametrization has one.
        cache, progress: cache decompositions (under `t2.run.fetch.cache_root()`); show a bar while decomposing.
        spectrum, rank, share, groups, tie: which singular values have a number, and which numbers are shared
            (`t2.adapters.spectrum.Spectrum`); `random` draws by `seed`.
        decomposition: `auto` computes the k largest alone where spectrum=top and that is cheaper; `full` always all.

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
        self.units: dict[str, Unit] = {}  # by `text_name`; frozen, hence no submodules
        self.layers: dict[str, SVFLinear] = {}  # those of them that are Linears
        self.paths: dict[str, str] = {}  # `text_name` -> the module's name in this model
        self.coverage: Coverage | None = None  # of the blocks' weights; None before `inject`
        self.vectors = nn.ModuleDict()  # of parametrizations: all that a checkpoint holds
        self.learned: dict[str, Learned] = {}  # matrix -> which singular values have a number
        self.singular_values: dict[str, Tensor] = {}  # matrix -> s (R,), fp32, on the CPU; NaN: not computed
        self.frobenius_norms: dict[str, float] = {}  # matrix -> its own
        self.low_rank = LowRankChanges()  # of LoRAs that are mixed with z
        self.why_one_state: str | None = None  # all examples have to have; None: each can have its own

    def inject(self, model: nn.Module, source: str, *, arrive: Callable[[str], None] | None = None) -> None:
        """Wrap the chosen matrices of `model`, which changes; `source` names the folder of the SVD cache.

        `arrive` is called with a matrix's name before it is read. ValueError: a pattern matches no matrix, a layer does
        not exist, or the model has an adapter already.
        """
        linears, stacks = find_matrices(model, self.modules_spec, self.layers_spec)
        self.coverage = coverage_of(model, linears, stacks)
        self.coverage.tell(of_all=self.modules_spec == "all" and self.layers_spec is None)
        folder = cache_root() / "svd" / source_slug(source) if self.cache else None
        injection = Injection(model, self.spectrum, self.parametrization, self.seed, folder, self.progress,
                              self.truncates, self.mode, self.vectors, arrive)  # fmt: skip
        for unit in injection.wrap(linears, stacks):
            self.units[unit.name] = unit
            if isinstance(unit.layer, SVFLinear):
                self.layers[unit.name], self.paths[unit.name] = unit.layer, unit.path
            self.learned |= unit.learned
            self.singular_values |= unit.singular_values
            self.frobenius_norms |= unit.frobenius_norms
        self.why_one_state = why_one_state(model, self.units.values())

    @property
    def truncates(self) -> bool:
        """Whether the k largest singular values are computed alone, where that is cheaper."""
        return self.spectrum.name == "top" and self.decomposition == "auto"

    @property
    def stacks(self) -> list[str]:
        """The parameters of experts, each of which holds several matrices."""
        return [name for name in self.units if name not in self.layers]

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
        found: dict[str, Tensor] = {}
        for unit in self.units.values():
            z = unit.layer.parametrization().detach().float().cpu()  # (k,), or (E, k)
            rows = z.view(-1, z.shape[-1])
            found |= {one.module: one.full(row).clone() for one, row in zip(unit.learned.values(), rows, strict=True)}
        return found

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
        wanted = {
            name: (unit.layer.parametrization, self._multiplier(unit, state)) for name, unit in self.units.items()
        }
        for name, unit in self.units.items():
            parametrization, z = wanted[name]
            if not state.keys().isdisjoint(unit.learned):
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
            ValueError: `state` does not fit the adapted matrices, or they are quantized.
        """
        refuse_merging(self.units.values())
        own, changes = self.low_rank.of_state(state, self.sizes)
        with restored(self.units.values(), "merged_weight"):
            with torch.no_grad(), self.low_rank.applied(changes, self.layers):
                for unit in self.units.values():
                    unit.layer.merge(self._multiplier(unit, own), dtype)
            with self.mode.switched("merged"):
                yield

    @contextmanager
    def per_example(self, scales: Mapping[str, Tensor]) -> Iterator[Callable[[Tensor], None]]:
        """Within the block each example of a batch has its own z, one of the D in `scales` (module -> (D, R)).

        State b applies to example b until the yielded function is called with an index (N,): then index[n] to n.

        Raises:
            ValueError: the modules of `scales` are not exactly the adapted ones, a shape does not fit, a multiplier
                that the spectrum leaves at 1 is not 1, or examples cannot have states of their own in this model.
        """
        if self.why_one_state is not None:
            raise ValueError(f"{self.why_one_state} Use pass2=merged and generation.mode=merged.")
        own, changes = self.low_rank.of_states(scales, self.sizes)
        with restored(self.units.values(), "example_scales"):
            for unit in self.units.values():
                unit.layer.set_per_example(unit.learned_of(own))
            with self.low_rank.applied(changes, self.layers), self.mode.switched("factored", per_example=True):
                yield self._select

    @torch.no_grad()
    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name, W' as the base holds it) of the present z, or of `state`; ValueError as `merged`."""
        refuse_merging(self.units.values())
        own, changes = self.low_rank.of_state(state, self.sizes)
        for unit in self.units.values():
            with self.low_rank.applied(changes, self.layers):
                weight = unit.layer.compose(self._multiplier(unit, own))
            if isinstance(unit.layer, SVFLinear):
                yield f"{unit.path}.weight", weight.T if isinstance(unit.layer.base, Conv1D) else weight
            else:
                yield unit.path, weight

    def _select(self, index: Tensor) -> None:
        self.mode.index = index

    def _multiplier(self, unit: Unit, state: Mapping[str, Tensor] | None) -> Tensor:
        """The z of a unit, of those singular values that have a number (k,), or (E, k), on its device."""
        if state is None:
            present: Tensor = unit.layer.parametrization()
            return present
        given = {name: state.get(name, torch.ones_like(self.singular_values[name])) for name in unit.learned}
        return unit.learned_of(given).to(unit.layer.input_factor.device)
