"""One Linear with rescaled singular values, in every mode of `t2.adapters.svf` (arXiv 2501.06252, section 3.1).

Not done here: anything that concerns several layers, such as switching modes or loading an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.parametrizations import Parametrization
from t2.adapters.svd import Decomposition

ModeName = Literal["factored", "merged", "off"]


@dataclass
class Mode:
    """The mode of an adapter, shared by all of its layers, so that one assignment switches them."""

    name: ModeName = "factored"
    per_example: bool = False
    index: Tensor | None = None  # (N,): the state of each example of a batch; None: state b for example b


class SVFLinear(nn.Module):
    """A frozen Linear or Conv1D whose singular values are multiplied by z.

    The factored mode computes, with the input factor Vh and the output factor U s,

        fp32             y = ((x Vhᵀ) * z) (U s)ᵀ + b
        bf16 and fp16    y = [x | (x Vhᵀ) * (z - 1)] [W | U s]ᵀ + b

    In half precision the first form loses what z has learned: x Vhᵀ lies on the bf16 grid, and 1.002 times it rounds
    back to it. The second computes the change alone and adds it inside one product with the joint weight, whose fp32
    accumulator is rounded once, so that z = 1 is the base model and a step of 1e-3 changes the output.
    """

    def __init__(
        self, base: nn.Linear | Conv1D, parts: Decomposition, parametrization: Parametrization, mode: Mode
    ) -> None:
        """Wrap `base`, whose weight, as (n_out, n_in), has the decomposition `parts`."""
        super().__init__()
        self.base = base
        self.parametrization = parametrization
        self.mode = mode
        self.example_scales: Tensor | None = None  # (D, R), D distinct states
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
        """(B, T, n_in) -> (B, T, n_out); without per-example scales B and T may be missing."""
        if self.mode.name == "off":
            return self.base(x)  # type: ignore[no-any-return]
        if self.mode.name == "merged":
            assert self.merged_weight is not None, "the merged mode is active inside `with adapter.merged()`"
            return self._merged(x, self.merged_weight)
        return self._factored(x, self._scale_for(x))

    def _scale_for(self, x: Tensor) -> Tensor:
        """The z that multiplies x Vhᵀ: (R,), or (B, 1, R) with per-example scales."""
        if not self.mode.per_example:
            z: Tensor = self.parametrization()
            return z
        scales = self.example_scales
        assert scales is not None, "per-example scales are active inside `with adapter.per_example(...)`"
        if self.mode.index is not None:
            scales = scales[self.mode.index]
        assert x.ndim >= 2, f"expected (B, ..., n_in), got {tuple(x.shape)}"
        assert x.shape[0] == scales.shape[0], f"scales of {scales.shape[0]} examples, batch of shape {tuple(x.shape)}"
        return scales.view(scales.shape[0], *(1,) * (x.ndim - 2), scales.shape[1])

    def _merged(self, x: Tensor, weight: Tensor) -> Tensor:
        if weight.dtype == x.dtype:
            return F.linear(x, weight, self.base.bias)
        bias = None if self.base.bias is None else self.base.bias.to(weight.dtype)
        return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    def _factored(self, x: Tensor, z: Tensor) -> Tensor:
        h = F.linear(x, self.input_factor)  # (B, T, R)
        if self.joint:
            change = (h.float() * (z - 1.0)).to(x.dtype)
            return F.linear(torch.cat([x, change], dim=-1), self.joint_weight, self.base.bias)
        return F.linear(h * z, self.output_factor, self.base.bias)

    def compose(self, z: Tensor) -> Tensor:
        """The dense W' = W + U diag(s (z - 1)) Vh (n_out, n_in) of a z (R,), differentiable; z = 1 gives W exactly."""
        weight = dense_weight(self.base)
        exact = torch.promote_types(weight.dtype, torch.float32)
        change = (self.output_factor.to(exact) * (z - 1.0).to(exact)) @ self.input_factor.to(exact)
        return (weight.to(exact) + change).to(weight.dtype)


def dense_weight(module: nn.Linear | Conv1D) -> Tensor:
    """The weight of a module as (n_out, n_in); Conv1D (GPT-2) holds it transposed."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def _set_dense_weight(module: nn.Linear | Conv1D, weight: Tensor) -> None:
    module.weight.data = weight.T if isinstance(module, Conv1D) else weight
