"""Quantizes a loaded model in place, matrix by matrix: `base_model.quantization=none|int8|nf4`.

    int8    the Linears of the decoder blocks, the embeddings and the head, in 8 bits (`t2.models.int8`)
    nf4     the Linears of the decoder blocks, in 4 bits (`t2.models.nf4`); embeddings and head stay, as in QLoRA

Norms, biases, routers, convolutions and experts in one 3-D parameter stay as they are, and a log line says what share
that is. Dense weights wait in the host's memory, each is moved to the device and packed there, so that the device never
holds the dense model. A checkpoint that is quantized already is taken as it is (`t2.models.quantized_checkpoints`). Not
done here: any format, adapting (`t2.adapters.svf_linear`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from t2.models.int8 import Int8Embedding, Int8Linear
from t2.models.nf4 import NF4Linear, check_nf4
from t2.models.quantized_linear import QuantizedLinear, quantization_of
from t2.models.routers import expert_counts, is_router
from t2.models.sharding import BALANCED
from t2.run.messages import check_choice

log = logging.getLogger(__name__)
SCHEMES: dict[str, type[Int8Linear] | type[NF4Linear]] = {"int8": Int8Linear, "nf4": NF4Linear}
QUANTIZATIONS = ("none", *SCHEMES)
# Routers where the configuration tells no number of experts, and what Mamba and Jamba multiply by without its Linear.
_KEPT = re.compile(r"(^|.*\.)(gate|router|dt_proj)(\..*|$)")


def check_quantization(name: str, device: str, *, by_block: bool = False) -> None:
    """Check a quantization before a model is loaded; `device` is a name, or `balanced`.

    Raises:
        ValueError: an unknown name, one that this device cannot run, a missing package, or a model that is not in one
            place.
    """
    check_choice("base_model.quantization", name, QUANTIZATIONS)
    if name == "none":
        return
    if device == BALANCED or by_block:
        where = "base_model.device=balanced" if device == BALANCED else "trainer=fsdp"
        raise ValueError(
            f"base_model.quantization={name} needs the model on one device, and {where} spreads it over several. Use "
            "trainer=ddp, where each device has the whole model, or base_model.quantization=none."
        )
    if name == "nf4":
        check_nf4(torch.device(device))


@torch.no_grad()
def quantize_model(model: PreTrainedModel, name: str, device: torch.device) -> None:
    """Replace the weights of `model`, which may be on another device; all of it is on `device` afterwards.

    With `none` nothing changes.

    Raises:
        ValueError: the model is quantized already, has nothing to quantize, or a weight holds NaN or infinity.
    """
    if name == "none":
        return
    if (found := quantization_of(model)) != "none":
        raise ValueError(
            f"The model is quantized already ({found}), and base_model.quantization is {name}. Set it to none."
        )
    linears = dict(packable(model))
    if not linears:
        raise ValueError(f"{type(model).__name__} has no Linear in its blocks. Set base_model.quantization=none.")
    total = sum(parameter.numel() for parameter in model.parameters())
    packed = 0
    for path, module in linears.items():
        model.set_submodule(path, _packed(module, name, device))
        packed += module.weight.numel()
    if name == "int8":
        packed += _quantize_tables(model, device)
    model.to(device)
    log.info("Quantized to %s: %.1f %% of the model's numbers.", name, 100 * packed / total)


def packable(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The Linears of the language model's blocks whose own forward is x Wᵀ + b."""
    tower, counts = model.get_decoder(), expert_counts(model)
    names = {id(module): name for name, module in model.named_modules()}
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    for name, module in max(lists, key=len, default=nn.ModuleList()).named_modules():
        is_plain = isinstance(module, nn.Linear | Conv1D) and type(module).forward in (
            nn.Linear.forward,
            Conv1D.forward,
        )
        if is_plain and not _KEPT.fullmatch(name) and not is_router(name, module, counts):
            yield names[id(module)], module


def _packed(module: nn.Linear | Conv1D, name: str, device: torch.device) -> QuantizedLinear:
    weight: Tensor = module.weight.T if isinstance(module, Conv1D) else module.weight
    return SCHEMES[name].of(weight.to(device), None if module.bias is None else module.bias.to(device))


def _quantize_tables(model: PreTrainedModel, device: torch.device) -> int:
    """Quantize embeddings and head, tied or not; returns how many numbers.

    Embeddings with a forward of their own (scaled ones) and a head tied to them stay.
    """
    head, found = model.get_output_embeddings(), packable_tables(model)
    count = sum(numbers for numbers, _ in table_sizes(model))
    for module in found:
        if isinstance(module, nn.Embedding):
            table = Int8Embedding(module.to(device))
            model.set_input_embeddings(table)
            if head in found and head.weight is module.weight:
                model.set_output_embeddings(Int8Linear(table.weight, table.scale, head.bias))
                return count
        else:
            model.set_output_embeddings(_packed(module, "int8", device))
    return count


def packable_tables(model: PreTrainedModel) -> list[nn.Embedding | nn.Linear]:
    """The embeddings and the head, as far as `int8` packs them."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    plain = [type(table) is nn.Embedding and table.max_norm is None, type(head) is nn.Linear]
    if head is not None and head.weight is table.weight and not all(plain):
        return []
    return [module for module, is_plain in zip((table, head), plain, strict=True) if is_plain]


def table_sizes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Numbers and rows of each of these tables; of tied ones once."""
    weights = {id(module.weight): module.weight for module in packable_tables(model)}
    return [(weight.numel(), len(weight)) for weight in weights.values()]
