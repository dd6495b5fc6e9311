"""A Linear whose weight is kept in a few bits: what the rest of t2 asks of it, whichever library packed it.

    y = x Wᵀ + b        dL/dx = g W        W (n_out, n_in) is dequantized, in pieces of rows, whenever it is needed

W is frozen, so that nothing is kept for the backward pass: neither x nor a dense W. Libraries that leave the product to
autograd keep the dense W of every layer until then, which is more than the model in half precision. Not done here:
any format (`t2.models.int8`, `t2.models.nf4`, `t2.models.quantized_checkpoints`), choosing what is quantized
(`t2.models.quantization`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

PIECE = {"cpu": 2**20}  # numbers that are dequantized at once: on a CPU what its cache holds
LARGE_PIECE = 2**27


class QuantizedLinear(nn.Module, ABC):
    """A Linear that can be dequantized; `scheme` is its name in base_model.quantization, or a checkpoint's method."""

    scheme: str

    def __init__(self, shape: tuple[int, int], bias: Tensor | None, dtype: torch.dtype) -> None:
        """`shape` is (n_out, n_in), `dtype` that of products."""
        super().__init__()
        self.out_features, self.in_features = shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False))
        self.bias: nn.Parameter | None
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in) of W."""
        return self.out_features, self.in_features

    @abstractmethod
    def rows(self, piece: slice) -> Tensor:
        """The rows `piece` of W, dequantized, in `dtype`."""

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes that W takes as it is kept, scales included."""

    @property
    def piece_rows(self) -> int:
        """How many rows are dequantized at once; a format that can only dequantize all of them says so."""
        return max(1, PIECE.get(self.device.type, LARGE_PIECE) // self.in_features)

    @property
    def device(self) -> torch.device:
        """Where W is."""
        return next(iter([*self.parameters(), *self.buffers()])).device

    def dequantized(self) -> Tensor:
        """W (n_out, n_in) in `dtype`, made anew."""
        pieces = [self.rows(piece) for piece in self._pieces()]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def product(self, x: Tensor) -> Tensor:
        """X Wᵀ + b (..., n_out), without gradients."""
        pieces = list(self._pieces())
        if len(pieces) == 1:
            return F.linear(x, self.rows(pieces[0]), self.bias)
        y = x.new_empty(*x.shape[:-1], self.out_features)
        for piece in pieces:
            y[..., piece] = F.linear(x, self.rows(piece), None if self.bias is None else self.bias[piece])
        return y

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient to x (..., n_in) from that to y: g W."""
        pieces = list(self._pieces())
        flat = gradient.reshape(-1, self.out_features)
        to_x = flat[:, pieces[0]] @ self.rows(pieces[0])
        for piece in pieces[1:]:
            to_x.addmm_(flat[:, piece], self.rows(piece))
        return to_x.view(*gradient.shape[:-1], self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out), differentiable in x."""
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """What `to`, `cuda` and `half` call."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        return self

    def extra_repr(self) -> str:
        """Sizes and format."""
        return f"{self.in_features}, {self.out_features}, {self.scheme}"

    def _pieces(self) -> Iterator[slice]:
        step = self.piece_rows
        for start in range(0, self.out_features, step):
            yield slice(start, min(start + step, self.out_features))


AnyLinear: TypeAlias = nn.Linear | Conv1D | QuantizedLinear  # whatever is x Wᵀ + b


class _Product(torch.autograd.Function):
    """x Wᵀ + b of a `QuantizedLinear`; W is dequantized again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return (ctx.layer.back(gradient) if ctx.needs_input_grad[0] else None), None


def quantization_of(model: nn.Module) -> str:
    """How the weights of a model's blocks are kept, as `base_model.quantization` says it; `none` for a dense model."""
    return next((module.scheme for module in model.modules() if isinstance(module, QuantizedLinear)), "none")


def refuse_quantized(model: nn.Module, what: str) -> None:
    """Raise ValueError where `model` is quantized; `what` needs dense weights, and its sentence says what to do."""
    scheme = quantization_of(model)
    if scheme != "none":
        raise ValueError(f"The base model's weights are {scheme} (base_model.quantization), and {what}")
