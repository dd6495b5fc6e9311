"""A frozen language model with its tokenizer: encodes prompts, and computes hidden states and logits separately.

The forward is split into `hidden_states` and `logits`, so that training computes logits at completion positions only.
Operations after the head (softcap, scale) are repeated here, and every load checks that both halves give the model's
own logits (`t2.models.checks`). A vision-language model has a processor as well (`t2.models.image_inputs`). Not done
here: loading, adapting, sampling.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2.models.attention_window import shortest_window
from t2.models.by_block import UnreadWeights
from t2.models.chat import chat_text, check_arguments, end_ids, end_of_turn_id, padding_id, plain_text, template_of
from t2.models.context_length import context_length
from t2.models.image_inputs import (
    NEVER,
    RowImages,
    ids_with_images,
    image_inputs,
    kinds_argument,
    placeholder_ids,
)
from t2.models.logit_scaling import scaled
from t2.models.precision import LOGITS
from t2.models.quantized_linear import quantization_of
from t2.models.sharding import is_sharded
from t2.types import Example, LazyImage


class PromptTooLong(ValueError):
    """A prompt, with what is kept for the answer, that does not fit the model's context."""


@dataclass
class LanguageModel:
    """A frozen model with its tokenizer, and its processor if it takes images; `end_ids` end a response."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    processor: Any | None = None
    context_length: int = field(init=False)
    end_ids: frozenset[int] = field(init=False)  # all that end a response
    end_of_turn_id: int | None = field(init=False)  # the one that the chat template puts after a response
    pad_id: int = field(init=False)
    placeholder_ids: tuple[int, ...] = field(init=False)  # of images in a prompt
    unread: UnreadWeights | None = None  # weights that are still in their files
    sharded: bool = False  # blocks are whole only while they are computed (`t2.training.sharded`)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # such as enable_thinking

    def __post_init__(self) -> None:
        """Freeze the model, and read context length, end and padding ids from its config and tokenizer."""
        self.model.requires_grad_(False)
        self.model.eval()
        self.context_length = context_length(self.model.config, self.source, is_recurrent=self.is_recurrent)
        self.end_of_turn_id = end_of_turn_id(self.tokenizer, self.processor)
        self.end_ids = end_ids(self.model, self.end_of_turn_id, self.tokenizer.eos_token_id)
        self.pad_id = padding_id(self.model, self.tokenizer, self.end_ids)
        self.placeholder_ids = placeholder_ids(self.model)
        check_arguments(self.source, self.processor, self.tokenizer, self.chat_template_kwargs)

    @property
    def decoder(self) -> nn.Module:
        """The model without its head; a class that names another one as its base (Llama 4's text model) knows it."""
        base: nn.Module = self.model.base_model
        found: nn.Module = getattr(self.model, "model", base) if base is self.model else base
        return found

    @property
    def is_recurrent(self) -> bool:
        """Whether the model takes no positions, since running states are all that it remembers (Mamba)."""
        stateful = getattr(self.model, "_is_stateful", False) is True
        return stateful and "position_ids" not in inspect.signature(self.decoder.forward).parameters

    @property
    def device(self) -> torch.device:
        """The device of the weights; of the first where there are several (`t2.models.sharding`)."""
        if self.unread is not None:
            return self.unread.device
        device: torch.device = self.model.device
        return device

    @property
    def index_device(self) -> torch.device:
        """Where indices of rows belong: the device of the weights, or the CPU where layers are on several."""
        return torch.device("cpu") if is_sharded(self.model) else self.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def quantization(self) -> str:
        """How the weights of the blocks are kept: `none`, or a scheme of `t2.models.quantization`."""
        return quantization_of(self.model)

    @property
    def sliding_window(self) -> int | None:
        """The shortest attention window of a layer in tokens; None where all of them attend to every token."""
        return shortest_window(self.model.config)

    def encode(self, example: Example, reserve: int = 0) -> list[int]:
        """Tokenize an example up to the beginning of the response, leaving room for `reserve` new tokens.

        Raises:
            PromptTooLong: the prompt does not fit into the context; a ValueError.
            ValueError: the chat template refuses the example, or the example has images and the model takes text only.
        """
        if example.images and self.processor is None:
            raise ValueError(
                f"The example {example.prompt[:60]!r} has an image, and {self.source} takes text only. Choose a "
                "vision-language base_model, or a task without images."
            )
        plain, text = self.prompt_text(example)
        ids = (self._bos() if plain else []) + self._ids(text, example.images)
        if len(ids) + reserve > self.context_length:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens and {reserve} are kept for the answer, but the context of "
                f"{self.source} is {self.context_length}. Shorten the prompt, lower max_new_tokens, or "
                f"take a model with a longer context. The prompt begins {example.prompt[:60]!r}."
            )
        return ids

    def prompt_text(self, example: Example) -> tuple[bool, str]:
        """Whether there is no chat template, and the example as text; images are one placeholder each."""
        if template_of(self.processor, self.tokenizer) is not None:
            return False, self._chat(example) + example.response_prefix
        return True, plain_text(self.processor, example)

    def decode(self, ids: list[int] | tuple[int, ...] | Tensor) -> str:
        """Decode ids (T,) to text without special tokens, keeping spaces as they are."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        images: RowImages = (),
        prompt_lengths: Tensor | None = None,
        **cache: Any,
    ) -> Tensor:
        """The input of the head, (N, S, D), from ids, mask and positions (N, S); a mask may be 4D bool.

        `images` are those of each row, or nothing; `prompt_lengths` (N,) are the tokens of a row before its completion
        (default: all). A model's own positions of images take the place of those given. `cache` are transformers'.
        """
        in_prompt = torch.ones_like(input_ids, dtype=torch.bool)
        if prompt_lengths is not None:
            in_prompt = torch.arange(input_ids.shape[1], device=input_ids.device) < prompt_lengths[:, None]
        hidden = self._states(
            **{
                "input_ids": input_ids,
                "attention_mask": self._mask_for_attention(attention_mask),
                "position_ids": position_ids,
                "use_cache": False,
                **cache,
                **self.image_inputs(images, input_ids, torch.ones_like(input_ids), in_prompt),
            }
        )
        return hidden.to(self.device)

    def _states(self, **inputs: Any) -> Tensor:
        """The last hidden states of the decoder, (N, S, D)."""
        if self.is_recurrent:
            del inputs["position_ids"]
            inputs |= {"cache_params": inputs.pop("past_key_values", None)}  # as these models call it
            inputs["attention_mask"] = inputs["attention_mask"][:, -inputs["input_ids"].shape[1] :]  # of new tokens
        hidden: Tensor = self.decoder(**inputs).last_hidden_state
        return hidden

    def _mask_for_attention(self, mask: Tensor) -> Tensor:
        """A 4D bool mask as additive float mask for eager attention (Gemma 2), which adds it to the scores."""
        eager = self.model.config.get_text_config()._attn_implementation == "eager"
        if mask.ndim != 4 or not eager:
            return mask
        zeros = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device)
        return zeros.masked_fill(~mask, torch.finfo(self.dtype).min)

    @property
    def places_images(self) -> bool:
        """Whether the model has positions or a mask of its own for images, and reads prompts with them whole."""
        return self.processor is not None and kinds_argument(self.model) is not None

    def image_inputs(self, images: RowImages, ids: Tensor, mask: Tensor, in_prompt: Tensor) -> dict[str, Tensor]:
        """Arguments of the forward for rows with images (`t2.models.image_inputs`); may hold `position_ids`."""
        return image_inputs(self.processor, self.model, images, ids, mask, in_prompt)

    def next_logits(self, **inputs: Any) -> Tensor:
        """The logits (N, V) of the token after the inputs (N, S), keyword arguments of the forward."""
        hidden = self._states(**inputs)
        return self.logits(hidden[:, -1].contiguous()).to(self.device)  # a strided row would be multiplied one by one

    def without_placeholders(self, logits: Tensor) -> Tensor:
        """Mask logits (..., V) so that no image placeholder is ever sampled."""
        if not self.placeholder_ids:
            return logits
        return logits.index_fill(-1, torch.tensor(self.placeholder_ids, device=logits.device), NEVER)

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits (..., V), in the dtype LOGITS of `t2.models.precision`, of hidden states (..., D)."""
        config = self.model.config.get_text_config()
        logits: Tensor = self.model.get_output_embeddings()(hidden).to(hidden.device, LOGITS)
        return self.without_placeholders(scaled(logits, config))

    def _chat(self, example: Example) -> str:
        """Format the example with the model's chat template, up to the beginning of the response."""
        try:
            return chat_text(self.processor, self.tokenizer, example, self.chat_template_kwargs)
        except TemplateError as error:
            raise ValueError(
                f"The chat template of {self.source} refuses the example ({error}). Some templates know no "
                "system message: leave `system` out and put its text into the prompt."
            ) from error

    def _ids(self, text: str, images: Sequence[LazyImage]) -> list[int]:
        """Tokenize a text that holds its special tokens already."""
        if images:
            return ids_with_images(self.processor, text, images)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if stray := set(ids) & set(self.placeholder_ids):
            raise ValueError(
                f"The prompt has {self.tokenizer.convert_ids_to_tokens(sorted(stray))}, which stands for an image or "
                "a video, and the example has no image. Leave it out of the question."
            )
        return ids

    def _bos(self) -> list[int]:
        """The BOS id if the tokenizer prepends it to plain text, else nothing."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("")["input_ids"][:1] == [bos] else []
