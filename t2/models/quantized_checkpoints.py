"""Checkpoints that are quantized already, as transformers loads them: their Linears become `QuantizedLinear`s.

    bitsandbytes, 4 bits    `t2.models.nf4`: its packed numbers as they are
    bitsandbytes, 8 bits    `t2.models.int8`: its numbers and scales; activations are not rounded here
    GPTQ, AWQ               gptqmodel's modules in plain torch: its fast kernels repack the numbers in a format of their
                            own at the first forward, after which W cannot be had for the backward pass
    torchao                 Linears whose weight is a tensor that dequantizes itself
    MXFP4 (gpt-oss)         made dense while it is loaded: its experts are in one 3-D parameter, which t2 keeps dense

Each is compared with its own product when it is adopted. What t2 cannot dequantize is refused, FP8 and quanto for two.
Not done here: quantizing (`t2.models.quantization`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mxfp4Config, PreTrainedConfig, PreTrainedModel

from t2.models.int8 import LARGEST, Int8Linear
from t2.models.nf4 import NF4Linear
from t2.models.quantized_linear import QuantizedLinear

log = logging.getLogger(__name__)
PLAIN_TORCH = {"gptq": "torch", "awq": "torch_awq"}  # gptqmodel's names of the kernels that dequantize and multiply
TOLERANCE = 2e-2  # of a product's size, between the library's and ours: theirs may round activations, or sum in fp16


class PackedLinear(QuantizedLinear):
    """A Linear of another library, which computes y itself; `dense` makes its W (n_out, n_in)."""

    def __init__(self, inner: nn.Module, dense: Callable[[Any], Tensor], scheme: str, dtype: torch.dtype) -> None:
        """`inner` stays as it is."""
        n_out, n_in = dense(inner).shape
        super().__init__((n_out, n_in), getattr(inner, "bias", None), dtype)
        self.inner, self.dense, self.scheme = inner, dense, scheme

    @property
    def piece_rows(self) -> int:
        """All: a library unpacks a matrix whole."""
        return self.out_features

    def rows(self, piece: slice) -> Tensor:
        """Some rows, of all that are unpacked."""
        return self.dense(self.inner)[piece].to(self.dtype)

    @property
    def stored_bytes(self) -> int:
        """Of all that the module holds, without a bias."""
        held = [*self.inner.named_parameters(), *self.inner.named_buffers()]
        return sum(_bytes(one) for name, one in held if name != "bias")


def loading_options(config: PreTrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` is told of a checkpoint's quantization beside what its configuration says.

    Raises:
        ValueError: AWQ in a format that only a GPU's kernels read.
    """
    method = method_of(config)
    if method in PLAIN_TORCH:
        settings: dict[str, Any] = {**dict(config.quantization_config), "backend": PLAIN_TORCH[method]}
        form = str(settings.get("version") or settings.get("format") or "gemm").lower()
        if method == "awq" and form != "gemm":
            raise ValueError(
                f"The checkpoint is AWQ in the format {form}; t2 reads gemm. Take one of that format, or the dense "
                "checkpoint with base_model.quantization=int8 or nf4."
            )
        if method == "gptq":
            settings["desc_act"] = False  # asks optimum for a kernel of a GPU; plain torch reads the order anyway
        config.quantization_config = settings
        return {"config": config}
    if method != "mxfp4":
        return {}
    log.info("The checkpoint is in MXFP4, 4.25 bits a number; its experts are made dense, in base_model.dtype.")
    return {"quantization_config": Mxfp4Config(dequantize=True)}


def method_of(config: PreTrainedConfig) -> str | None:
    """The name of a checkpoint's quantization in its configuration, in lower case; None where it is dense."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = getattr(settings, "quant_method", None) or dict(settings).get("quant_method")
    return str(method).rpartition(".")[2].lower()


@torch.no_grad()
def adopt_quantized(model: PreTrainedModel) -> None:
    """Replace the quantized Linears of a loaded checkpoint; a dense model stays as it is.

    Raises:
        ValueError: one that t2 cannot dequantize, or whose product is not that of its dequantized weight.
    """
    method = method_of(model.config)
    if method is None:
        return
    count = 0
    for path, module in list(model.named_modules()):
        adopted = _adopted(module, method, model.dtype)
        if adopted is not None:
            _check(path, module, adopted)
            model.set_submodule(path, adopted)
            count += 1
    held = [*model.named_parameters(), *((name, one) for name, one in model.named_buffers() if _is_packed(name))]
    left = [name for name, weight in held if _is_foreign(model, name, weight)]
    left += [f"{path}.weight" for path, module in model.named_modules() if _multiplies_itself(model, path, module)]
    if left:
        kind = type(model.get_submodule(left[0].rpartition(".")[0])).__name__
        raise ValueError(
            f"The checkpoint is quantized ({method}), and t2 cannot dequantize {left[0]} (a {kind}). Allowed: "
            "bitsandbytes, GPTQ, AWQ, torchao and MXFP4. Take the dense checkpoint, with "
            "base_model.quantization=int8 or nf4."
        )
    if count:
        log.info("The checkpoint is quantized (%s): %d matrices, of which none is merged.", method, count)


def _adopted(module: nn.Module, method: str, dtype: torch.dtype) -> QuantizedLinear | None:
    """What takes a module's place; None where it is not quantized."""
    kind, weight = type(module).__name__, getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    if kind == "Linear4bit":
        return NF4Linear(weight.data, weight.quant_state, bias, dtype)  # type: ignore[union-attr]
    if kind == "Linear8bitLt":
        state: Any = module.state
        scale = state.SCB if state.SCB is not None else weight.SCB  # type: ignore[union-attr]
        codes = weight.data if state.CB is None else state.CB  # type: ignore[union-attr]
        return Int8Linear(nn.Parameter(codes, requires_grad=False), (scale / LARGEST).to(dtype), bias)
    if callable(getattr(module, "dequantize_weight", None)):
        vars(module).pop("dequantize_weight", None)  # the compiled one of an instance, which needs a C++ compiler
        return PackedLinear(module, _of_gptqmodel, method, dtype)
    if kind == "AwqTorchLinear":
        return PackedLinear(module, _of_awq, method, dtype)
    if isinstance(module, nn.Linear) and type(weight).__module__.startswith("torchao."):
        return PackedLinear(module, _of_tensor, method, dtype)
    return None


def _of_gptqmodel(module: Any) -> Tensor:
    """gptqmodel has Wᵀ (n_in, n_out)."""
    dense: Tensor = module.dequantize_weight().T
    return dense


def _of_awq(module: Any) -> Tensor:
    """gptqmodel dequantizes AWQ's 4 bits, Wᵀ (n_in, n_out) again, in a function beside the module."""
    packing: Any = import_module("gptqmodel.quantization.awq.utils.packing_utils")
    numbers = (module.qweight, module.qzeros, module.scales)
    dense: Tensor = packing.dequantize_gemm(*numbers, module.bits, module.group_size).T
    return dense


def _of_tensor(module: Any) -> Tensor:
    dense: Tensor = module.weight.dequantize()
    return dense


def _check(path: str, module: nn.Module, adopted: QuantizedLinear) -> None:
    """Raise ValueError unless a module's own product is that of the dequantized weight."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, adopted.in_features, generator=draw).to(adopted.device, adopted.dtype)
    expected, got = module(x).float(), F.linear(x, adopted.dequantized(), adopted.bias).float()
    difference, size = float((got - expected).abs().max()), float(expected.abs().max())
    if got.shape != expected.shape or not difference <= TOLERANCE * size:
        raise ValueError(
            f"{path} ({type(module).__name__}) computes something else than its dequantized weight, by "
            f"{difference / max(size, 1e-30):.1e} of its size (allowed: {TOLERANCE}). Take the dense checkpoint with "
            "base_model.quantization=int8 or nf4."
        )


def _is_foreign(model: nn.Module, name: str, weight: Tensor) -> bool:
    """Whether a parameter is packed by no scheme that t2 knows: in integers, or in a byte or less (FP8)."""
    return not _is_inside(model, name) and (not weight.is_floating_point() or weight.element_size() < 2)


def _multiplies_itself(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether a Linear of a library has a forward of its own (quanto); those of architectures have theirs anyway."""
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return False
    return not _is_inside(model, path) and not type(module).__module__.startswith("transformers.models.")


def _is_inside(model: nn.Module, name: str) -> bool:
    """Whether a parameter or module is a part of a Linear that was adopted."""
    return any(isinstance(model.get_submodule(owner), QuantizedLinear) for owner in _owners(name))


def _is_packed(name: str) -> bool:
    return name.rpartition(".")[2] in ("qweight", "weight_packed")


def _owners(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
