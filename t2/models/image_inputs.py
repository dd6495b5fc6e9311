"""Images for a vision-language model: their places in a prompt, and the tensors that its vision tower reads.

A processor writes a placeholder token for every feature that an image will have, and the model puts the features
there. Prompts are therefore ids as those of text are, beside a list of images, and positions are those of text: an
architecture that counts them otherwise is refused when it is loaded (`t2.models.loading.check_images`). Not done here:
videos, sound.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.types import Example, LazyImage

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id")  # what configs call them
NEVER = -1e9  # the logit of a placeholder: finite, so that an entropy stays a number


def placeholder_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The ids that stand for images; a model must not write them, since no image belongs to them."""
    named = {getattr(model.config, name, None) for name in PLACEHOLDERS}
    return tuple(sorted(int(token) for token in named if token is not None))


def chat_text(processor: Any, tokenizer: Any, example: Example) -> str:
    """The example in the chat template, images first, up to where the answer begins.

    A template that speaks of images takes a turn in parts, one of text alone (of a model that was made to see later)
    takes it as a text with placeholders.

    Raises:
        jinja2.TemplateError: the template refuses the example.
    """
    own: str | None = getattr(processor, "chat_template", None)
    in_parts = own is not None and "image" in own

    def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
        if in_parts:
            return {"role": role, "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}
        return {"role": role, "content": f"{processor.image_token}\n" * images + text if images else text}

    messages = [turn("user", example.prompt, len(example.images))]
    if example.system is not None:
        messages.insert(0, turn("system", example.system))
    template = tokenizer if own is None else processor
    text: str = template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def ids_with_images(processor: Any, text: str, images: Sequence[LazyImage]) -> list[int]:
    """The ids of a text in which every image has as many placeholders as it will have features.

    Raises:
        ValueError: the text has not one place for each image, or an image cannot be decoded.
    """
    places = text.count(processor.image_token)
    if places != len(images):
        raise ValueError(
            f"The prompt has {places} places for images ({processor.image_token}) and {len(images)} images. Leave the "
            "token out of the question: places are made for all images."
        )
    read = processor(text=[text], images=[image.load() for image in images], add_special_tokens=False)
    return [int(token) for token in read["input_ids"][0]]


def pixel_inputs(processor: Any, model: PreTrainedModel, images: Sequence[LazyImage]) -> dict[str, Tensor]:
    """What the model's forward takes for the images of a batch, in the order of its rows.

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
