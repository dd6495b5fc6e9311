"""A control of SVF: the same numbers on random directions instead of singular vectors.

    SVF, top k     W' = W + U_k diag(s_k * d) Vh_k        d = z - 1 (k,), d = 0 is the base model
    here           W' = W + P_k diag(s_k * d) Q_kᵀ        P_k (n_out, k), Q_k (n_in, k) random, with orthonormal columns

A change of d is as large here as there (the same Frobenius norm of W' - W), so that a difference in what is learned is
one of directions: whether principal ones matter is disputed (arXiv 2508.16546, arXiv 2511.08567). Not in the paper. The
layer is SVF's own, so that small changes are kept in half precision here as there. A state is no z: it is of this
adapter alone, and is not mixed. `merged()` is the active mode without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.coverage import Coverage, coverage_of
from t2.adapters.dense_weights import DenseWeights
from t2.adapters.mode import Mode
from t2.adapters.named_parameters import ActiveParameters
from t2.adapters.parametrizations import Direct
from t2.adapters.svd import Decomposition, decompose_all, source_slug
from t2.adapters.svf_linear import SVFLinear, dense_weight
from t2.adapters.targets import check_first, find_targets, text_name
from t2.run.fetch import cache_root


class RandomBasis(ActiveParameters):
    """A vector d (k,) in fp32 per matrix.

    Args:
        rank: k, the numbers of each matrix.
        modules, layers: which matrices, as of `t2.adapters.svf.SVF`.
        seed: of the directions, which are drawn again from it wherever a state is loaded.
        cache: cache decompositions on disk; they give s.
        progress: show a progress bar while decomposing.
    """

    name = "random_basis"

    def __init__(
        self,
        rank: Annotated[int, Field(gt=0)] = 16,
        modules: str | Sequence[str] = "all",
        layers: Sequence[int] | float | None = None,
        seed: int = 0,
        cache: bool = True,
        progress: bool = True,
    ) -> None:
        """Store the settings; `inject` does the work."""
        self.mode = Mode()
        super().__init__()
        self.rank, self.modules_spec, self.layers_spec, self.seed = rank, modules, layers, seed
        self.cache, self.progress = cache, progress
        self.frobenius_norms: dict[str, float] = {}  # `text_name` -> that of the matrix
        self.coverage: Coverage | None = None  # of the blocks' weights; None before `inject`
        self._layers: dict[str, _RandomBasisLinear] = {}  # by the module's name in this model

    @property
    def is_active(self) -> bool:
        """Whether the layers add their change."""
        return self.mode.name != "off"

    @is_active.setter
    def is_active(self, value: bool) -> None:
        self.mode.name = "factored" if value else "off"

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a state means, by key of the configuration."""
        return {"rank": self.rank, "modules": self.modules_spec, "layers": self.layers_spec, "seed": self.seed}

    def inject(self, model: nn.Module, source: str) -> None:
        """Wrap the chosen matrices of `model`, which changes; `source` names the folder of the SVD cache.

        Raises:
            ValueError: a pattern matches no matrix, the model has an adapter already, or a matrix has fewer than `rank`
                singular values.
        """
        check_first(self.frobenius_norms)
        targets = find_targets(model, self.modules_spec, self.layers_spec)
        self.coverage = coverage_of(model, targets, ())
        self.coverage.tell(of_all=self.modules_spec == "all" and self.layers_spec is None)
        for path, module in targets.items():
            if self.rank > min(dense_weight(module).shape):
                size = min(dense_weight(module).shape)
                raise ValueError(
                    f"adapter.rank is {self.rank}, and {path} has {size} singular values; take at most {size}."
                )
        folder = cache_root() / "svd" / source_slug(source) if self.cache else None
        weights, vectors = DenseWeights(targets, None), {}
        top = dict.fromkeys(targets, self.rank)
        for number, (path, parts) in enumerate(decompose_all(weights, folder=folder, progress=self.progress, top=top)):
            name, weight = text_name(model, path), weights[path]
            generator = torch.Generator().manual_seed(self.seed * len(targets) + number)
            output, input_ = (_orthonormal(size, self.rank, generator).to(weight.device) for size in weight.shape)
            s = parts.s[: self.rank].to(output)
            layer = _RandomBasisLinear(targets[path], Decomposition(output, s, input_.T), Direct(s), self.mode)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
            self._layers[path], vectors[name] = layer, layer.values
            self.frobenius_norms[name] = float(torch.linalg.vector_norm(weight.float(), dtype=torch.float64))
        self.register(vectors)

    @torch.no_grad()
    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, W' as the base holds it) of the present vectors, or of `state`.

        Raises:
            ValueError: `state` has names or shapes that the adapter does not.
        """
        with self.holding(state):
            for path, layer in self._layers.items():
                weight = layer.compose(layer.parametrization())
                yield f"{path}.weight", weight.T if isinstance(layer.base, Conv1D) else weight


class _RandomBasisLinear(SVFLinear):
    """One matrix with its directions: W x + P s (d * Qᵀ x), as SVF's own layer adds a thin correction."""

    def __init__(self, base: nn.Linear | Conv1D, parts: Decomposition, parametrization: Direct, mode: Mode) -> None:
        super().__init__(base, parts, parametrization, mode)
        self.is_thin = True  # also of full rank: W is no sum of these directions
        base.requires_grad_(False)

    @property
    def values(self) -> nn.Parameter:
        """d (k,)."""
        assert isinstance(self.parametrization, Direct), "the only kind that is given"
        return self.parametrization.delta


def _orthonormal(size: int, rank: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns (size, rank): Q of a Gaussian matrix, in fp32 on the CPU."""
    found: Tensor = torch.linalg.qr(torch.randn(size, rank, generator=generator)).Q
    return found
