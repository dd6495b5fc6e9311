"""One Linear with rescaled singular values, in every mode of `t2.adapters.svf` (arXiv 2501.06252, section 3.1).

Not done here: anything that concerns several layers, such as switching modes or loading an expert.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.low_rank import Term, add_terms, dense_terms
from t2.adapters.mode import Mode
from t2.adapters.parametrizations import Parametrization
from t2.adapters.states import by_token
from t2.adapters.svd import Decomposition
from t2.adapters.thin_correction import HALF, Scaled, ThinCorrection, exact
from t2.models.quantized_linear import AnyLinear, QuantizedLinear

COLUMNS = 8  # a thin factor has a multiple of these, the rest 0: tensor cores need rows of W at multiples of 16 bytes


class SVFLinear(nn.Module):
    """A frozen Linear or Conv1D whose singular values are multiplied by z.

    The factored mode computes, with the input factor Vh and the output factor U s,

        fp32             y = ((x Vhᵀ) * z) (U s)ᵀ + b
        bf16 and fp16    y = [x | (x Vhᵀ) * (z - 1)] [W | U s]ᵀ + b

    In half precision the first form loses what z has learned: x Vhᵀ lies on the bf16 grid, and 1.002 times it rounds
    back to it. The second computes the change alone and adds it inside one product with the joint weight, whose fp32
    accumulator is rounded once, so that z = 1 is the base model and a step of 1e-3 changes the output.

    There W and U s are views of one buffer, which moves, copies and casts keep: W is never held twice.

    Where only k of the R singular values have a number, U s (n_out, k) and Vh (k, n_in) are thin, z is (k,), and every
    dtype computes the change alone (`t2.adapters.thin_correction`). So does a base whose W is quantized, whichever
    numbers are learned: W stays in its few bits, no joint weight is kept, and there is no merged mode.
    """

    def __init__(self, base: AnyLinear, parts: Decomposition, parametrization: Parametrization, mode: Mode) -> None:
        """Wrap `base`, whose weight, as (n_out, n_in), has the decomposition `parts`, or whose part of it that is."""
        super().__init__()
        self.base = base
        self.parametrization = parametrization
        self.mode = mode
        self.example_scales: Tensor | None = None  # (D, k), D distinct states
        self.merged_weight: Tensor | None = None  # (n_out, n_in)
        self.is_sharded = False  # `t2.adapters.shardable`
        self.terms: tuple[Term, ...] = ()  # `t2.adapters.low_rank`
        self.is_thin = len(parts.s) < min(matrix_shape(base)) or isinstance(base, QuantizedLinear)
        dtype = base.dtype if isinstance(base, QuantizedLinear) else base.weight.dtype
        parts = _filled_up(parts) if self.is_thin else parts
        self.register_buffer("input_factor", parts.Vh.to(dtype), persistent=False)  # (R, n_in)
        self.register_buffer("joint_weight", None, persistent=False)  # [W | U s] (n_out, n_in + R), in half precision
        self.register_buffer("separate_factor", (parts.U * parts.s).to(dtype), persistent=False)  # else U s
        self.input_factor: Tensor
        self.joint_weight: Tensor | None
        self.separate_factor: Tensor | None
        self._settle()

    @property
    def output_factor(self) -> Tensor:
        """U s (n_out, R)."""
        if self.joint_weight is not None:
            return self.joint_weight[:, self.input_factor.shape[1] :]
        assert self.separate_factor is not None, "one of the two is there"
        return self.separate_factor

    @property
    def weight(self) -> Tensor:
        """W of the present mode as the base holds it, for models that multiply by it themselves; differentiable in z.

        ValueError where each example has a state of its own, since it has no one weight then.
        """
        if self.mode.name == "off":
            return dense_weight(self.base) if isinstance(self.base, QuantizedLinear) else self.base.weight
        if self.mode.per_example:
            raise ValueError(
                "This model multiplies by the weight of a Linear itself, so that examples cannot have states of their "
                "own. Use pass2=merged and generation.mode=merged."
            )
        if self.mode.name == "merged":
            base = self.base.weight
            assert self.merged_weight is not None, "the merged mode is active inside `with adapter.merged()`"
            assert isinstance(base, Tensor), "quantized weights are not merged"
            merged = self.merged_weight.to(base.dtype)  # that of rollouts may be another
        else:
            merged = self.compose(self.parametrization())
        return merged.T if isinstance(self.base, Conv1D) else merged

    @property
    def bias(self) -> Tensor | None:
        """The bias (n_out,) of the base."""
        return self.base.bias

    @torch.no_grad()
    def _settle(self) -> None:
        """Join W and U s in half precision and part them in any other; the weight of `base` becomes a view again."""
        if isinstance(self.base, QuantizedLinear):
            return
        weight, half = dense_weight(self.base), self.input_factor.dtype in HALF
        if half and self.joint_weight is None:
            parts = (weight, self.output_factor)
            # In the layout that the base has, since another one may be added up in another order.
            joint = torch.cat([p.T for p in parts]).T if isinstance(self.base, Conv1D) else torch.cat(parts, dim=1)
            self.joint_weight, self.separate_factor = joint, None
        elif not half and self.joint_weight is not None:
            self.separate_factor, self.joint_weight = self.output_factor.contiguous(), None
        if self.joint_weight is not None:
            _set_dense_weight(self.base, self.joint_weight[:, : self.input_factor.shape[1]])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SVFLinear:
        """What `to`, `cuda` and `half` call: torch would make a second W of the view, and round z."""

        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            return other if other.dtype == tensor.dtype else tensor.to(other.device)

        super()._apply(fn, recurse=False)  # type: ignore[no-untyped-call]
        if recurse:
            self.base._apply(fn)
            self.parametrization._apply(moved)  # type: ignore[no-untyped-call]
        self._settle()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SVFLinear:
        """A copy with a buffer of its own: torch would clone the view beside it."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        vars(made).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        made._settle()
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n_in) -> (B, T, n_out); B T may be one dimension, and without per-example scales both be missing."""
        if self.mode.name == "off":
            return self.base(x)  # type: ignore[no-any-return]
        if self.mode.name == "merged":
            assert self.merged_weight is not None, "the merged mode is active inside `with adapter.merged()`"
            return self._merged(x, self.merged_weight)
        y = self._factored(x, self._scale_for(x))
        return add_terms(y, x, self.terms, self.mode.index) if self.terms else y

    def _scale_for(self, x: Tensor) -> Tensor:
        """The z that multiplies x Vhᵀ: (k,), or (B, 1, k) with per-example scales, (B T, k) of flattened tokens.

        k is R but in a thin layer.
        """
        if not self.mode.per_example:
            z: Tensor = self.parametrization()
            return z
        scales = self.example_scales
        assert scales is not None, "per-example scales are active inside `with adapter.per_example(...)`"
        if self.mode.index is not None:
            scales = scales[self.mode.index]
        return by_token(scales, x.shape)

    def _merged(self, x: Tensor, weight: Tensor) -> Tensor:
        if weight.dtype == x.dtype:
            return F.linear(x, weight, self.base.bias)
        bias = None if self.base.bias is None else self.base.bias.to(weight.dtype)
        return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    def _factored(self, x: Tensor, z: Tensor) -> Tensor:
        if self.is_thin:
            weight = None if isinstance(self.base, QuantizedLinear) else dense_weight(self.base)
            thin: Tensor = ThinCorrection.apply(  # type: ignore[no-untyped-call]
                x, self._change_of(z), self.base, weight, self.base.bias, self.output_factor, self.input_factor,
                self.joint_weight,
            )  # fmt: skip
            return thin
        h = F.linear(x, self.input_factor)  # (B, T, R)
        if self.joint_weight is not None:
            change: Tensor = Scaled.apply(h, z - 1.0)  # type: ignore[no-untyped-call]
            return F.linear(torch.cat([x, change], dim=-1), self.joint_weight, self.base.bias)
        return F.linear(h * z, self.output_factor, self.base.bias)

    def compose(self, z: Tensor) -> Tensor:
        """The dense W' = W + U diag(s (z - 1)) Vh (n_out, n_in) of a z (k,), differentiable; z = 1 gives W exactly."""
        if self.is_sharded:
            raise ValueError(
                "A matrix that is sharded among processes (trainer=fsdp) is nowhere whole, so it cannot be merged. Use "
                "generation.mode=factored, or trainer=ddp."
            )
        weight = dense_weight(self.base)
        return (exact(weight) + self.change(z)).to(weight.dtype)

    def change(self, z: Tensor) -> Tensor:
        """W' - W (n_out, n_in) of a z (k,) and the terms that are applied, in fp32, differentiable."""
        change = (exact(self.output_factor) * exact(self._change_of(z))) @ exact(self.input_factor)
        return change + dense_terms(self.terms) if self.terms else change

    def merge(self, z: Tensor, dtype: torch.dtype | None) -> None:
        """Set the weight of the merged mode to W' of z (k,), rounded to `dtype` where there is one."""
        self.merged_weight = self.compose(z).to(dtype)

    def set_per_example(self, scales: Tensor) -> None:
        """Set the D states (D, k) that examples may have."""
        self.example_scales = scales.to(self.input_factor.device)

    def _change_of(self, z: Tensor) -> Tensor:
        """z - 1 (..., k), with a 0 for each column that fills up a thin factor."""
        missing = self.input_factor.shape[0] - z.shape[-1]
        return F.pad(z - 1.0, (0, missing)) if missing else z - 1.0


def _filled_up(parts: Decomposition) -> Decomposition:
    """Thin factors with columns of 0 up to a multiple of COLUMNS."""
    missing = -len(parts.s) % COLUMNS
    return Decomposition(
        F.pad(parts.U, (0, missing)), F.pad(parts.s, (0, missing)), F.pad(parts.Vh, (0, 0, 0, missing))
    )


def dense_weight(module: AnyLinear) -> Tensor:
    """The weight of a module as (n_out, n_in); Conv1D (GPT-2) holds it transposed, a quantized one is packed."""
    if isinstance(module, QuantizedLinear):
        return module.dequantized()
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def matrix_shape(module: AnyLinear) -> tuple[int, int]:
    """(n_out, n_in) of a module's matrix."""
    if isinstance(module, QuantizedLinear):
        return module.shape
    n_out, n_in = dense_weight(module).shape
    return n_out, n_in


def _set_dense_weight(module: nn.Linear | Conv1D, weight: Tensor) -> None:
    module.weight.data = weight.T if isinstance(module, Conv1D) else weight
