"""Changes of low rank beside the multipliers of SVF: W' = W + U diag(s (z - 1)) Vh + sum_j (c_j - 1) B_j A_j.

A LoRA of PEFT (arXiv 2106.09685) is such a change, its scaling within B. Each change of a matrix has a key and one
multiplier c, of which 1 is the base model as it is of a singular value, and 2 the LoRA as it was trained. So mixing
rules, per-example states and merged weights treat it as one more number of a state.

    merged        the changes are added to W' in fp32, and the sum is rounded once
    per example   y + (c - 1) * (x Aᵀ) Bᵀ, in fp32, as plain PEFT computes it
    factored, of the adapter's own z   not applied: what is trained is z alone

Not done here: reading PEFT's files (`t2.experts.lora_expert`), training a LoRA (`t2.adapters.peft`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from t2.adapters.states import by_token, check_per_example, check_state
from t2.adapters.thin_correction import exact

if TYPE_CHECKING:
    from t2.adapters.svf_linear import SVFLinear


@dataclass(frozen=True)
class LowRank:
    """A change B A of one matrix, B (n_out, r) and A (r, n_in), fp32."""

    module: str
    output_factor: Tensor
    input_factor: Tensor


@dataclass(frozen=True)
class Term:
    """A change that is applied, with c - 1 of D states, (D,)."""

    change: LowRank
    weights: Tensor

    def of(self, x: Tensor, index: Tensor | None) -> Tensor:
        """What it adds to y (N, ..., n_out) for x (N, ..., n_in), or all tokens flattened, (N T, n_in).

        State index[n], or n, is that of example n; where there is one, it is that of all.
        """
        weights = self.weights if index is None else self.weights[index]
        h = F.linear(exact(x), self.change.input_factor)
        h = h * (weights if len(weights) == 1 else by_token(weights[:, None], x.shape))
        return F.linear(h, self.change.output_factor)


def dense_terms(terms: tuple[Term, ...]) -> Tensor:
    """The sum of the changes (n_out, n_in) of the one state that there is."""
    parts = [(one.change.output_factor * one.weights) @ one.change.input_factor for one in terms]
    return torch.stack(parts).sum(dim=0)


def add_terms(y: Tensor, x: Tensor, terms: tuple[Term, ...], index: Tensor | None) -> Tensor:
    """y (N, ..., n_out) with all terms added, in its own dtype."""
    total = exact(y)
    for term in terms:
        total = total + term.of(x, index)
    return total.to(y.dtype)


class LowRankChanges:
    """The changes that are known to an adapter, by key."""

    def __init__(self) -> None:
        """None yet."""
        self.known: dict[str, LowRank] = {}

    def attach(self, changes: Mapping[str, LowRank], layers: Mapping[str, SVFLinear]) -> None:
        """Make changes known; nothing is applied until a state says so.

        Raises:
            ValueError: a change of a matrix that is not adapted, or of another shape. Nothing has changed then.
        """
        moved = {}
        for key, one in changes.items():
            if one.module not in layers:
                raise ValueError(
                    f"The LoRA changes {one.module}, which the adapter does not wrap. Set adapter.modules and "
                    "adapter.layers so that it does."
                )
            layer = layers[one.module]
            shape = (layer.output_factor.shape[0], layer.input_factor.shape[1])
            if (found := (one.output_factor.shape[0], one.input_factor.shape[1])) != shape:
                raise ValueError(f"The LoRA's change of {one.module} is {found}; this model's matrix is {shape}.")
            device = layer.input_factor.device
            factors = (factor.detach().float().to(device) for factor in (one.output_factor, one.input_factor))
            moved[key] = LowRank(one.module, *factors)
        self.known |= moved

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The part of a state, or of D states, that is of matrices, and the part that is of changes, (1,) or (D, 1)."""
        extra = {key: value for key, value in state.items() if key in self.known}
        return {name: z for name, z in state.items() if name not in extra}, extra

    def of_state(
        self, state: Mapping[str, Tensor] | None, sizes: Mapping[str, int]
    ) -> tuple[Mapping[str, Tensor] | None, dict[str, Tensor]]:
        """The part of a state that is of matrices, of which `sizes` are those, and the multipliers of changes, (1, 1).

        Raises:
            ValueError: it does not fit the matrices.
        """
        if state is None:
            return None, {}
        own, changes = self.split(state)
        check_state(own, sizes)
        return own, {key: multiplier[None] for key, multiplier in changes.items()}

    def of_states(
        self, scales: Mapping[str, Tensor], sizes: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The same of D states: module -> (D, R), and key -> (D, 1).

        Raises:
            ValueError: they do not fit the matrices, or a change has another number of multipliers.
        """
        own, changes = self.split(scales)
        check_per_example(own, sizes)
        wanted = (len(next(iter(own.values()))), 1)
        for key, multipliers in changes.items():
            if multipliers.shape != torch.Size(wanted):
                raise ValueError(f"{key}: got multipliers of shape {tuple(multipliers.shape)}, expected {wanted}.")
        return own, changes

    @contextmanager
    def applied(self, extra: Mapping[str, Tensor], layers: Mapping[str, SVFLinear]) -> Iterator[None]:
        """Within the block the layers apply the changes with multipliers other than 1, of D states, key -> (D, 1).

        For a merged weight D is 1.
        """
        adapted = list(layers.items())
        terms: dict[str, tuple[Term, ...]] = {}
        for key, multipliers in extra.items():
            one = self.known[key]
            if bool((multipliers != 1).any()) or multipliers.requires_grad:
                weights = (multipliers.squeeze(1) - 1.0).to(one.input_factor.device)
                terms[one.module] = (*terms.get(one.module, ()), Term(one, weights))
        before = [layer.terms for _, layer in adapted]
        try:
            for name, layer in adapted:
                layer.terms = terms.get(name, ())
            yield
        finally:
            for (_, layer), held in zip(adapted, before, strict=True):
                layer.terms = held
