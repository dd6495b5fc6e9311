"""W x + U_K (s_K d * (Vh_K x)): a frozen weight with a thin correction for K of its R singular values, d = z - 1.

    fp32             y = x Wᵀ + b, and (x Vh_Kᵀ * d) (U_K s_K)ᵀ added in place
    bf16 and fp16    y = [x | x Vh_Kᵀ * d] [W | U_K s_K]ᵀ + b

In half precision the sum is rounded once, by the accumulator of one product: added to a y that has been rounded, a
correction below half the spacing at y (2e-3 of it in bf16) would vanish. Only h = x Vh_Kᵀ is kept for the backward
pass, in the type of x: W is frozen, so x has no use there.

    dL/dx = g W + (d * (g U_K s_K)) Vh_K        dL/dd = sum over tokens of h * (g U_K s_K), in fp32

A quantized W is dequantized for each of these products and kept for none; in half precision the joint matrix is made
then, too.

Not done here: the factors (`t2.adapters.svd`), the parametrization of z, the layer (`t2.adapters.svf_linear`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2.models.quantized_linear import QuantizedLinear

HALF = (torch.bfloat16, torch.float16)


class ThinCorrection(torch.autograd.Function):
    """The product above for x (..., n_in), with its gradients to x and to d, (k,) or (B, 1, k).

    Arguments: x, d, x -> x Wᵀ + b as the base computes it, W (n_out, n_in), b (n_out,) or None, U_K s_K (n_out, k),
    Vh_K (k, n_in), and in half precision [W | U_K s_K] (n_out, n_in + k), else None. Of a quantized base the third is
    that module, and there are neither W nor the joint matrix.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        d: Tensor,
        base: Callable[[Tensor], Tensor],
        weight: Tensor | None,
        bias: Tensor | None,
        output_factor: Tensor,
        input_factor: Tensor,
        joint: Tensor | None,
    ) -> Tensor:
        """The product, y (..., n_out)."""
        h = F.linear(x, input_factor)
        ctx.save_for_backward(h, d, weight, output_factor, input_factor)
        ctx.base = base
        change = (exact(h) * d).to(h.dtype)
        if isinstance(base, QuantizedLinear) and h.dtype in HALF and not _is_base(d):
            joint = torch.cat([base.dequantized(), output_factor], dim=1)
        if joint is not None and not _is_base(d):
            return F.linear(torch.cat([x, change], dim=-1), joint, bias)
        y = base(x)
        if joint is None:
            y.view(-1, y.shape[-1]).addmm_(change.reshape(-1, change.shape[-1]), output_factor.T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients to x and to d."""
        h, d, weight, output_factor, input_factor = ctx.saved_tensors
        to_change = exact(gradient @ output_factor)  # (..., k)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ weight if weight is not None else ctx.base.back(gradient)
            to_h = (to_change * d).to(h.dtype)
            to_x.view(-1, to_x.shape[-1]).addmm_(to_h.reshape(-1, to_h.shape[-1]), input_factor)
        to_d = (to_change * exact(h)).sum_to_size(d.shape).to(d.dtype) if ctx.needs_input_grad[1] else None
        return to_x, to_d, None, None, None, None, None, None


class Scaled(torch.autograd.Function):
    """h * d, multiplied in fp32 and rounded to the type of h (B, T, R); d is (R,) or (B, 1, R), fp32.

    autograd would keep h in fp32 for the gradient of d, 2.9 MB a token in an 8B model. This keeps h as it is, half of
    that, and computes the same numbers.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, d: Tensor) -> Tensor:
        """The product, in the type of h."""
        ctx.save_for_backward(h, d)
        return (exact(h) * d).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients to h and to d."""
        h, d = ctx.saved_tensors
        to_change = exact(gradient)
        to_h = (to_change * d).to(h.dtype) if ctx.needs_input_grad[0] else None
        to_d = (to_change * exact(h)).sum_to_size(d.shape).to(d.dtype) if ctx.needs_input_grad[1] else None
        return to_h, to_d


def _is_base(d: Tensor) -> bool:
    """Whether d is 0 everywhere, so that x Wᵀ is the base bit for bit, in whichever order a longer product adds.

    Asked on the CPU alone: a GPU would be waited for in every layer. There the joint product at d = 0 is the base up to
    the order of summation.
    """
    return d.device.type == "cpu" and not bool(d.any())


def exact(tensor: Tensor) -> Tensor:
    """In fp32, or float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
