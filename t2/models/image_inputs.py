"""Inputs of a vision-language model: prompts with placeholders for images, and what its forward needs beside them.

    ids, images of each row  ->  pixels (and sizes, tiles, …) as the processor gives them
                             ->  kinds of tokens, for models whose image tokens see each other (Gemma 3, PaliGemma)
                             ->  positions by the model's own function, for M-RoPE (Qwen2.5-VL, Qwen3-VL, GLM-4V)

The processor writes one placeholder token per feature of an image, which the model replaces by the feature, so that a
prompt is token ids and a list of images. What a family needs is found from its processor and its model; there are no
names of families here. Every load compares the result with the model's own (`t2.models.checks.check_images`). Not
supported: video, audio.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from t2.types import LazyImage

# Their names in model configs; those of videos and audio, too, which a model must not generate either.
PLACEHOLDERS = tuple(f"{kind}_token_{id_}" for kind in ("image", "video", "audio") for id_ in ("id", "index"))
TOKEN_KINDS = ("token_type_ids", "mm_token_type_ids")  # names of the argument that tells tokens of images from others
NEVER = -1e9  # the logit of a placeholder; finite, so that entropies stay finite
RowImages = Sequence[tuple[LazyImage, ...]]  # the images of each row of a batch


def placeholder_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The ids of placeholders, which a model must not generate: no image belongs to them."""
    named = {getattr(model.config, name, None) for name in PLACEHOLDERS}
    return tuple(sorted(int(token) for token in named if token is not None))


def kinds_argument(model: PreTrainedModel) -> str | None:
    """The name of the argument that tells tokens of images from others; None where the forward takes none.

    A model that takes one has positions or a mask of its own for images.
    """
    taken = inspect.signature(model.base_model.forward).parameters
    return next((name for name in TOKEN_KINDS if name in taken), None)


def ids_with_images(processor: Any, text: str, images: Sequence[LazyImage]) -> list[int]:
    """Tokenize a text with one placeholder per image to ids with one placeholder per feature of an image.

    Raises:
        ValueError: the processor knows no images, the text has a placeholder for a video, the numbers of placeholders
            and images differ, or an image cannot be decoded.
    """
    token = image_token(processor)
    if (video := getattr(processor, "video_token", None)) is not None and video in text:
        raise ValueError(f"The prompt has a placeholder for a video ({video}), and t2 reads images only. Leave it out.")
    if (placeholders := text.count(token)) != len(images):
        raise ValueError(
            f"The prompt has {placeholders} image placeholders ({token}) and {len(images)} images. "
            "Leave the token out of the question: a placeholder is added for each image."
        )
    read = processor(text=[text], images=[[image.load() for image in images]], add_special_tokens=False)
    return [int(token) for token in read["input_ids"][0]]


def image_token(processor: Any) -> str:
    """The placeholder of an image in a text; ValueError where the processor has none."""
    token: str | None = getattr(processor, "image_token", None)
    if token is None:
        raise ValueError(
            f"The example has an image, and {type(processor).__name__} has no token that stands for one in a prompt. "
            "Choose another vision-language base_model, or a task without images."
        )
    return token


def read_images(processor: Any, model: PreTrainedModel, images: RowImages) -> dict[str, Tensor]:
    """The processor's whole output for the images of a batch, as far as the model's forward takes it.

    Raises:
        ValueError: an image cannot be decoded.
    """
    rows = [row for row in images if row]
    read = processor(
        text=[image_token(processor) * len(row) for row in rows],
        images=[[image.load() for image in row] for row in rows],
        padding=True,
        return_tensors="pt",
    )
    of_text = {"input_ids", "attention_mask", "labels", *TOKEN_KINDS}
    taken = inspect.signature(model.base_model.forward).parameters
    return {
        name: value.to(model.device, model.dtype if torch.is_floating_point(value) else None)
        for name, value in read.items()
        if name in taken and name not in of_text
    }


def token_kinds(processor: Any, model: PreTrainedModel, ids: Tensor, of_image: Tensor) -> dict[str, Tensor]:
    """The kind of each token (N, S), by the name of the argument; nothing where the model takes none, or needs none.

    Prompts with images, where `of_image` (N, S) is true, have the kinds that the processor gives them; all other
    tokens have the one that the model gives to those that it generates. Where that is not 0, it is needed in text as
    well: PaliGemma would let tokens see later ones.
    """
    name = kinds_argument(model)
    if name is None:
        return {}
    generated = model._update_model_kwargs_for_generation({}, {name: ids.new_zeros(1, 1)})[name][0, -1]
    if not int(generated) and not bool(of_image.any()):
        return {}
    own = torch.zeros_like(ids)
    if processor.return_mm_token_type_ids:
        own = torch.tensor(processor.create_mm_token_type_ids(ids.tolist()), device=ids.device)
    return {name: torch.where(of_image, own, generated)}


def own_positions(model: PreTrainedModel, ids: Tensor, mask: Tensor, inputs: dict[str, Tensor]) -> Tensor | None:
    """The positions (K, N, S) that the model gives the tokens of a batch with images; None where those of text.

    K is what its rotary embedding takes: text, time, height and width, or the last three.
    """
    function = type(model)._prepare_position_ids_for_generation
    if function is GenerationMixin._prepare_position_ids_for_generation:
        return None
    positions: Tensor = function(model, ids, {"attention_mask": mask, **inputs})
    return positions


def image_inputs(
    processor: Any, model: PreTrainedModel, images: RowImages, ids: Tensor, mask: Tensor, in_prompt: Tensor
) -> dict[str, Tensor]:
    """The arguments of the model's forward for rows of tokens of which some have images.

    Args:
        processor: the model's; None of a model of text, which needs nothing.
        model: with its head.
        images: of each of the N rows, or nothing where none has one.
        ids: the tokens, (N, S).
        mask: 0 where padded at the left, (N, S).
        in_prompt: whether a token belongs to a prompt, and not to a completion or padding, (N, S) bool.

    Raises:
        ValueError: an image cannot be decoded.
    """
    if processor is None:
        return {}
    if not any(images):
        return token_kinds(processor, model, ids, torch.zeros_like(in_prompt))
    seen = torch.tensor([bool(row) for row in images], device=ids.device)[:, None]
    inputs = read_images(processor, model, images) | token_kinds(processor, model, ids, in_prompt & seen)
    positions = own_positions(model, ids, mask, inputs)
    return inputs if positions is None else inputs | {"position_ids": positions}
