"""The E matrices of one 3-D parameter, such as a layer's experts, with rescaled singular values.

    Qwen3-MoE    W (E, n_out, n_in)        gpt-oss    W (E, n_in, n_out), and biases, which stay

    W'[e] = U[e] diag(s[e] z[e]) Vh[e]     z (E, k), k = R where every singular value has a number (arXiv 2501.06252)

Tokens come sorted by expert, S of them in E groups (`Routed`), and every product is one grouped product:

    fp32, all R              y = ((x Vhᵀ) * z) (U s)ᵀ
    fp32, k of R             y = x Wᵀ + ((x Vhᵀ) * (z - 1)) (U s)ᵀ
    bf16 and fp16            y = [x | (x Vhᵀ) * (z - 1)] [W | U s]ᵀ, rounded once as in `t2.adapters.svf_linear`

Kept for the backward pass are x Vhᵀ and numbers of the size of z; [W | U s] is put together for a forward pass and
freed. With states for each example, a token's z is that of its example and expert, so nothing is grouped anew.

`compose` gives all W' of a z, and keeps no second W for the gradient of z. Not done here: which parameters these are
(`t2.adapters.fused_targets`), the experts' forward pass (`t2.adapters.svf_experts`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from t2.adapters.fused_targets import FusedTarget
from t2.adapters.mode import Mode
from t2.adapters.parametrizations import Parametrization
from t2.adapters.svd import Decomposition
from t2.adapters.svf_linear import COLUMNS
from t2.adapters.thin_correction import HALF, exact

CHUNK_NUMBERS = 2**26  # of W' that are summed in fp32 at once: 256 MiB


@dataclass(frozen=True)
class Routed:
    """S tokens sorted by expert; a token that several experts read is there once for each."""

    experts: Tensor  # (S,), ascending
    ends: Tensor  # (E,), int32: where each expert's tokens end
    examples: Tensor | None = None  # (S,): each token's row of the states in use; None: one state for all


class FusedMatrices(nn.Module):
    """The factors and multipliers of the matrices of one parameter; the parameter itself stays in its module."""

    def __init__(self, target: FusedTarget, parts: Decomposition, parametrization: Parametrization, mode: Mode) -> None:
        """Take the decompositions of W[e] (n_out, n_in), stacked, or the part of them that is learned: s (E, k)."""
        super().__init__()
        self.target, self.parametrization, self.mode = target, parametrization, mode
        self.example_scales: Tensor | None = None  # (D, E, k), D distinct states
        self.merged_weight: Tensor | None = None  # as the parameter is
        weight = target.matrices
        self.is_thin = parts.s.shape[1] < min(weight.shape[1:])
        missing = -parts.s.shape[1] % COLUMNS if self.is_thin else 0
        output = F.pad(parts.U * parts.s[:, None, :], (0, missing))
        self.register_buffer("output_factor", output.to(weight.dtype), persistent=False)  # U s (E, n_out, k)
        inputs = F.pad(parts.Vh, (0, 0, 0, missing))
        self.register_buffer("input_factor", inputs.to(weight.dtype), persistent=False)  # Vh (E, k, n_in)
        self.output_factor: Tensor
        self.input_factor: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedMatrices:
        """What `to`, `cuda` and `half` call: torch would round z."""

        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            return other if other.dtype == tensor.dtype else tensor.to(other.device)

        super()._apply(fn, recurse=False)  # type: ignore[no-untyped-call]
        if recurse:
            self.parametrization._apply(moved)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Tensor, routed: Routed) -> Tensor:
        """(S, n_in) -> (S, n_out), without the bias, in the factored mode."""
        numbers, index = self._numbers(routed)
        weight = self.target.matrices
        h = grouped(x, self.input_factor.transpose(1, 2), routed.ends)  # (S, k)
        if weight.dtype in HALF:
            change: Tensor = _Scaled.apply(h, numbers - 1.0, index)  # type: ignore[no-untyped-call]
            joint: Tensor = _Joint.apply(x, change, weight, self.output_factor, routed.ends)  # type: ignore[no-untyped-call]
            return joint
        if not self.is_thin:
            scaled: Tensor = _Scaled.apply(h, numbers, index)  # type: ignore[no-untyped-call]
            return grouped(scaled, self.output_factor.transpose(1, 2), routed.ends)
        thin: Tensor = _Scaled.apply(h, numbers - 1.0, index)  # type: ignore[no-untyped-call]
        return grouped(x, weight.transpose(1, 2), routed.ends) + grouped(
            thin, self.output_factor.transpose(1, 2), routed.ends
        )

    def _numbers(self, routed: Routed) -> tuple[Tensor, Tensor]:
        """z as rows (·, k), 1 where they fill up a thin factor, and the row of each token (S,)."""
        if not self.mode.per_example:
            z, index = self.parametrization(), routed.experts
        else:
            assert self.example_scales is not None, "per-example scales are active inside `with per_example(...)`"
            assert routed.examples is not None, "the experts' layer says which example a token is of"
            z, index = self.example_scales.flatten(0, 1), routed.examples * len(self.input_factor) + routed.experts
        return F.pad(z, (0, self.input_factor.shape[1] - z.shape[1]), value=1.0), index

    def compose(self, z: Tensor) -> Tensor:
        """All W' of a z (E, k), as the parameter holds them, differentiable in z; z = 1 gives W exactly."""
        change = F.pad(z - 1.0, (0, self.input_factor.shape[1] - z.shape[1]))
        composed: Tensor = _Composed.apply(  # type: ignore[no-untyped-call]
            change, self.target.weight, self.output_factor, self.input_factor, self.target.transposed
        )
        return composed

    def merge(self, z: Tensor, dtype: torch.dtype | None) -> None:
        """Set the weight of the merged mode to all W' of z (E, k), rounded to `dtype` and kept in that of W."""
        merged = self.compose(z)
        self.merged_weight = merged if dtype is None else merged.to(dtype).to(merged.dtype)

    def set_per_example(self, scales: Tensor) -> None:
        """Set the D states (D, E, k) that examples may have, where tokens are known by their example."""
        self.example_scales = scales.to(self.input_factor.device)


def has_grouped_forward(experts: nn.Module) -> bool:
    """Whether transformers' `use_experts_implementation` made the class, which all have the same forward pass."""
    return all(hasattr(experts, name) for name in ("is_transposed", "has_gate", "has_bias", "_apply_gate"))


def grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x (S, n) of each group times its own weight (E, n, m), (S, m)."""
    product: Tensor = F.grouped_mm(x, weight, offs=ends)
    return product


class _Scaled(torch.autograd.Function):
    """h[i] * d[index[i]] for h (S, k), d (·, k) in fp32, rounded to the type of h, which alone is kept."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, d: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(h, d, index)
        return (exact(h) * d[index]).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h, d, index = ctx.saved_tensors
        to_change = exact(gradient)
        to_h = (to_change * d[index]).to(h.dtype) if ctx.needs_input_grad[0] else None
        to_d = None
        if ctx.needs_input_grad[1]:
            to_d = torch.zeros_like(d).index_add_(0, index, (to_change * exact(h)).to(d.dtype))
        return to_h, to_d, None


class _Joint(torch.autograd.Function):
    """[x | change] [W | U s]ᵀ by group; the joint weight is freed at once, since gradients need its parts alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Tensor, weight: Tensor, factor: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(weight, factor, ends)
        joint = torch.cat([weight, factor], dim=2)  # (E, n_out, n_in + k)
        return grouped(torch.cat([x, change], dim=1), joint.transpose(1, 2), ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, factor, ends = ctx.saved_tensors
        to_x = grouped(gradient, weight, ends) if ctx.needs_input_grad[0] else None
        return to_x, grouped(gradient, factor, ends), None, None, None


class _Composed(torch.autograd.Function):
    """W + U diag(s d) Vh for d (E, k), some matrices at a time; of the gradient G to W' it takes uᵀ G v alone."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: Tensor, output: Tensor, inputs: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(output, inputs)
        ctx.transposed, ctx.dtype = transposed, d.dtype
        made = torch.empty_like(weight)
        for span in _spans(weight):
            change = (exact(output[span]) * exact(d[span])[:, None, :]) @ exact(inputs[span])
            made[span] = exact(weight[span]) + (change.transpose(1, 2) if transposed else change)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        output, inputs = ctx.saved_tensors
        parts = []
        for span in _spans(gradient):
            of_matrix = exact(gradient[span].transpose(1, 2) if ctx.transposed else gradient[span])
            parts.append(((exact(output[span]).transpose(1, 2) @ of_matrix) * exact(inputs[span])).sum(-1))
        return torch.cat(parts).to(ctx.dtype), None, None, None, None


def _spans(weight: Tensor) -> list[slice]:
    """Runs of matrices of W (E, m, n) that are worked on at once."""
    step = max(1, CHUNK_NUMBERS // weight[0].numel())
    return [slice(start, start + step) for start in range(0, len(weight), step)]
