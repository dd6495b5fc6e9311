"""W x + U_K (s_K d * (Vh_K x)): a frozen weight with a thin correction for K of its R singular values, d = z - 1.

    fp32             y = x Wᵀ + b, and (x Vh_Kᵀ * d) (U_K s_K)ᵀ added in place
    bf16 and fp16    y = [x | x Vh_Kᵀ * d] [W | U_K s_K]ᵀ + b

In half precision the sum is rounded once, by the accumulator of one product: added to a y that has been rounded, a
correction below half the spacing at y (2e-3 of it in bf16) would vanish. Only h = x Vh_Kᵀ is kept for the backward
pass, in the type of x: W is frozen, so x has no use there.

    dL/dx = g W + (d * (g U_K s_K)) Vh_K        dL/dd = sum over tokens of h * (g U_K s_K), in fp32

Not done here: the factors (`t2.adapters.svd`), the parametrization of z, the layer (`t2.adapters.svf_linear`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class ThinCorrection(torch.autograd.Function):
    """The product above for x (..., n_in), with its gradients to x and to d, (k,) or (B, 1, k).

    Arguments: x, d, x -> x Wᵀ + b as the base computes it, W (n_out, n_in), b (n_out,) or None, U_K s_K (n_out, k),
    Vh_K (k, n_in), and in half precision [W | U_K s_K] (n_out, n_in + k), else None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        d: Tensor,
        base: Callable[[Tensor], Tensor],
        weight: Tensor,
        bias: Tensor | None,
        output_factor: Tensor,
        input_factor: Tensor,
        joint: Tensor | None,
    ) -> Tensor:
        """The product, y (..., n_out)."""
        h = F.linear(x, input_factor)
        ctx.save_for_backward(h, d, weight, output_factor, input_factor)
        change = (exact(h) * d).to(h.dtype)
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
            to_x = gradient @ weight
            to_h = (to_change * d).to(h.dtype)
            to_x.view(-1, to_x.shape[-1]).addmm_(to_h.reshape(-1, to_h.shape[-1]), input_factor)
        to_d = (to_change * exact(h)).sum_to_size(d.shape).to(d.dtype) if ctx.needs_input_grad[1] else None
        return to_x, to_d, None, None, None, None, None, None


def _is_base(d: Tensor) -> bool:
    """Whether d is 0 everywhere, so that x Wᵀ is the base bit for bit, in whichever order a longer product adds.

    Asked on the CPU alone: a GPU would be waited for in every layer. There the joint product at d = 0 is the base up to
    the order of summation.
    """
    return d.device.type == "cpu" and not bool(d.any())


def exact(tensor: Tensor) -> Tensor:
    """In fp32, or float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
