"""One adapted Linear and the modes it shows (paper §3.1); see `t2.adapters.svf` for what they are for.

The layer owns no parameters but its map to z, and knows nothing of the other layers or of experts.
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
    """The mode of all layers of one adapter; shared by them, so that switching is one assignment."""

    name: ModeName = "factored"
    per_example: bool = False
    index: Tensor | None = None  # (N,): which row of scales each example of a batch has; None: its own


class SVFLinear(nn.Module):
    """A frozen Linear or Conv1D whose singular values are rescaled.

    In fp32 the factored mode replaces the dense product (two thin ones). In half precision that would lose what z
    learned: x Vhᵀ is already on the bf16 grid and 1 ± 0.002 times it rounds back. There the change is computed apart,
    (x Vhᵀ) * (z - 1), and added inside one product with the joint weight [W | U s], whose fp32 accumulator is rounded
    once; z = 1 is then the base model again, and a step of 1e-3 is felt.
    """

    def __init__(
        self, base: nn.Linear | Conv1D, parts: Decomposition, parametrization: Parametrization, mode: Mode
    ) -> None:
        """Wrap `base`; `parts` is the decomposition of its weight as (n_out, n_in)."""
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
        """(B, T, n_in) -> (B, T, n_out), or without B or T where the base takes that."""
        if self.mode.name == "off":
            return self.base(x)  # type: ignore[no-any-return]
        if self.mode.name == "merged":
            assert self.merged_weight is not None, "the merged mode is active inside `with adapter.merged()`"
            return self._merged(x, self.merged_weight)
        return self._factored(x, self._scale_for(x))

    def _scale_for(self, x: Tensor) -> Tensor:
        """z as it multiplies (x Vhᵀ): (R,), or (B, 1, R) where every example has its own."""
        if not self.mode.per_example:
            z: Tensor = self.parametrization()
            return z
        rows = self.example_scales
        assert rows is not None, "scales per example are active inside `with adapter.per_example(...)`"
        if self.mode.index is not None:
            rows = rows[self.mode.index]
        assert x.ndim >= 2, f"expected (B, ..., n_in), got {tuple(x.shape)}"
        assert x.shape[0] == rows.shape[0], f"{rows.shape[0]} rows of scales for a batch of shape {tuple(x.shape)}"
        return rows.view(rows.shape[0], *(1,) * (x.ndim - 2), rows.shape[1])

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
        """The dense W' (n_out, n_in) for one z (R,), differentiable; z = 1 gives W bit for bit."""
        weight = dense_weight(self.base)
        exact = torch.promote_types(weight.dtype, torch.float32)
        change = (self.output_factor.to(exact) * (z - 1.0).to(exact)) @ self.input_factor.to(exact)
        return (weight.to(exact) + change).to(weight.dtype)


def dense_weight(module: nn.Linear | Conv1D) -> Tensor:
    """The weight as (n_out, n_in); Conv1D (GPT-2) keeps it transposed."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def _set_dense_weight(module: nn.Linear | Conv1D, weight: Tensor) -> None:
    module.weight.data = weight.T if isinstance(module, Conv1D) else weight
