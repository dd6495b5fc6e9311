"""Weights in 8 bits: W = q * s with q int8 (n_out, n_in) and a scale for each row, s (n_out,), in any torch.

    s = max |W[row]| / 127        q = round(W / s)        the error of a number is at most s / 2

Symmetric, per row, of weights alone: activations stay in the compute dtype, so that the model is one function of its
inputs. Why no library: products of torchao's int8 tensors leave a dense copy of each matrix for the backward pass, its
embedding dequantizes the whole table for one token, and transformers imports it wherever it is installed;
bitsandbytes's int8 rounds activations, too, row by row (LLM.int8, arXiv 2208.07339). Not done here: choosing what is
quantized (`t2.models.quantization`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2.models.quantized_linear import QuantizedLinear

LARGEST = 127


class Int8Linear(QuantizedLinear):
    """A Linear with W in int8; `weight` is q, which an embedding may share."""

    scheme = "int8"

    def __init__(self, weight: nn.Parameter, scale: Tensor, bias: Tensor | None) -> None:
        """`weight` q (n_out, n_in) int8 and `scale` s (n_out,), whose dtype is that of products."""
        super().__init__((weight.shape[0], weight.shape[1]), bias, scale.dtype)
        self.weight = weight
        self.register_buffer("scale", scale, persistent=False)
        self.scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8Linear:
        """Of a dense W (n_out, n_in), whose dtype becomes that of products."""
        return cls(*quantized(weight), bias)

    def rows(self, piece: slice) -> Tensor:
        """q * s of some rows."""
        return self.weight[piece].to(self.scale.dtype).mul_(self.scale[piece, None])

    @property
    def stored_bytes(self) -> int:
        """A byte a number, and the scales."""
        return self.weight.numel() + self.scale.numel() * self.scale.element_size()


class Int8Embedding(nn.Module):
    """A table of embeddings in int8; `weight` is q (V, D), which the head may share, and `scale` s (V,)."""

    def __init__(self, table: nn.Embedding) -> None:
        """Of a dense table."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.weight, scale = quantized(table.weight)
        self.register_buffer("scale", scale, persistent=False)
        self.scale: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) -> (..., D)."""
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids, None]


@torch.no_grad()
def quantized(weight: Tensor) -> tuple[nn.Parameter, Tensor]:
    """q (n_out, n_in) int8 and s (n_out,) of a matrix W, s in its dtype.

    Raises:
        ValueError: W holds NaN or infinity.
    """
    largest = weight.detach().abs().amax(dim=1)
    if not bool(torch.isfinite(largest).all()):
        raise ValueError(f"A weight of shape {tuple(weight.shape)} holds NaN or infinity: it cannot be quantized.")
    scale = (largest.float() / LARGEST).to(weight.dtype)
    # fp16 says little of scales below 6e-5: one that is rounded down would cut the row off, so it is the next one up.
    least = torch.finfo(weight.dtype).smallest_normal * torch.finfo(weight.dtype).eps
    scale = torch.where(largest.float() > (LARGEST + 0.5) * scale.float(), scale + least, scale)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a row of zeros
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for start in range(0, len(weight), 4096):  # in pieces, so that no second dense matrix is made
        rows = slice(start, start + 4096)
        whole = (weight.detach()[rows].float() / scale[rows, None].float()).round_()
        codes[rows] = whole.clamp_(-LARGEST, LARGEST).to(torch.int8)
    return nn.Parameter(codes, requires_grad=False), scale
