"""Weights in 4 bits: bitsandbytes's NF4 (QLoRA, arXiv 2305.14314), blocks of 64 numbers with doubly quantized scales.

    4 bits a number, 8 for the scale of each 64, 32 for that of each 256 scales: 4.127 bits, 0.516 bytes

bitsandbytes packs and unpacks, on a GPU or a CPU. Its product is not used: a kernel of its own for few rows would make
rollouts another function than training. Not done here: choosing what is quantized (`t2.models.quantization`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from t2.models.quantized_linear import QuantizedLinear

BLOCK = 64


def check_nf4(device: torch.device) -> None:
    """Raise ValueError where bitsandbytes is missing, or does not know the device."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "base_model.quantization=nf4 needs the package bitsandbytes, which is not installed: pip install "
            "'transformer2[quantized]', or set base_model.quantization=int8, which needs none."
        )
    import bitsandbytes

    known = bitsandbytes.supported_torch_devices
    if device.type not in known:
        raise ValueError(
            f"base_model.quantization=nf4 does not run on {device.type}; allowed, by bitsandbytes: "
            f"{', '.join(sorted(known))}. Set base_model.device, or base_model.quantization=int8."
        )


class NF4Linear(QuantizedLinear):
    """A Linear with W in NF4: `packed` holds two numbers a byte, `state` (bitsandbytes's) their scales."""

    scheme = "nf4"

    def __init__(self, packed: Tensor, state: Any, bias: Tensor | None, dtype: torch.dtype) -> None:
        """As bitsandbytes packs them; `dtype` is that of products."""
        super().__init__((int(state.shape[0]), int(state.shape[1])), bias, dtype)
        self.register_buffer("packed", packed, persistent=False)
        self.packed: Tensor
        self.state = state

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> NF4Linear:
        """Of a dense W (n_out, n_in), whose dtype becomes that of products.

        Raises:
            ValueError: W holds NaN or infinity.
        """
        from bitsandbytes.functional import quantize_4bit

        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"A weight of shape {tuple(weight.shape)} holds NaN or infinity: it cannot be quantized.")
        packed, state = quantize_4bit(
            weight.detach().contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        return cls(packed, state, bias, weight.dtype)

    @property
    def piece_rows(self) -> int:
        """All: bitsandbytes unpacks a matrix whole."""
        return self.out_features

    def rows(self, piece: slice) -> Tensor:
        """Some rows, of all that are unpacked."""
        from bitsandbytes.functional import dequantize_4bit

        whole: Tensor = dequantize_4bit(self.packed, self.state)
        return whole[piece].to(self.dtype)

    @property
    def stored_bytes(self) -> int:
        """Packed numbers, and scales on both levels."""
        inner = self.state.state2
        kept = [self.packed, self.state.absmax, *((inner.absmax, inner.code) if inner is not None else ())]
        return sum(one.numel() * one.element_size() for one in kept)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NF4Linear:
        """What `to` and `cuda` call: bitsandbytes's state is no tensor, and moves along."""
        super()._apply(fn, recurse)
        self.state.to(self.packed.device)
        return self
