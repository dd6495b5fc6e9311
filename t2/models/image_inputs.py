"""Inputs of a vision-language model: prompts with placeholders for images, and pixels for its vision encoder.

The processor writes one placeholder token per feature of an image, which the model replaces by the feature. A prompt is
therefore token ids and a list of images, and its positions are those of text; architectures that number positions
otherwise are refused on loading (`t2.models.loading.check_images`). Not supported: video, audio.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.types import LazyImage

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id")  # their names in model configs
NEVER = -1e9  # the logit of a placeholder; finite, so that entropies stay finite


def placeholder_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The ids of image placeholders, which a model must not generate: no image belongs to them."""
    named = {getattr(model.config, name, None) for name in PLACEHOLDERS}
    return tuple(sorted(int(token) for token in named if token is not None))


def ids_with_images(processor: Any, text: str, images: Sequence[LazyImage]) -> list[int]:
    """Tokenize a text with one placeholder per image to ids with one placeholder per feature of an image.

    Raises:
        ValueError: the numbers of placeholders and images differ, or an image cannot be decoded.
    """
    placeholders = text.count(processor.image_token)
    if placeholders != len(images):
        raise ValueError(
            f"The prompt has {placeholders} image placeholders ({processor.image_token}) and {len(images)} images. "
            "Leave the token out of the question: a placeholder is added for each image."
        )
    read = processor(text=[text], images=[image.load() for image in images], add_special_tokens=False)
    return [int(token) for token in read["input_ids"][0]]


def pixel_inputs(processor: Any, model: PreTrainedModel, images: Sequence[LazyImage]) -> dict[str, Tensor]:
    """The keyword arguments of the model's forward for the images of a batch, in the order of its rows.

    Raises:
        ValueError: an image cannot be decoded.
    """
    read = processor.image_processor(images=[image.load() for image in images], return_tensors="pt")
    taken = inspect.signature(model.base_model.forward).parameters
    return {
        name: value.to(model.device, model.dtype if torch.is_floating_point(value) else None)
        for name, value in read.items()
        if name in taken
    }
