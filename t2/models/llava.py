"""Builds a small LLaVA from a text-only language model: adds a vision encoder and a projector (arXiv 2304.08485).

    image -> patches -> encoder (CLIP's vision transformer, any size) -> projector -> the language model's embeddings

The language model keeps its weights; encoder and projector are random until they are aligned with it
(`examples/tiny_llava.py`). The result is saved as an ordinary model folder of transformers. Not done here: training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from t2.models.checks import check_images, check_logits
from t2.models.language_model import LanguageModel
from t2.run.messages import check_range

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class VisionShape:
    """The sizes of a vision encoder; an image becomes (image_size / patch_size)² tokens."""

    image_size: int = 32
    patch_size: int = 8
    hidden_size: int = 192
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for sizes below 1 or not divisible as they must be."""
        for name, size in vars(self).items():
            check_range(name, size, at_least=1)
        if self.image_size % self.patch_size or self.hidden_size % self.heads:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}, and hidden_size="
                f"{self.hidden_size} one of heads={self.heads}."
            )


def build_llava(text: LanguageModel, shape: VisionShape, *, source: str, seed: int = 0) -> LanguageModel:
    """Build a LLaVA of the language model `text`, copied, and a random encoder and projector.

    Embeddings stay tied or untied as they are.

    Raises:
        ValueError: the model is a vision-language model already.
    """
    if text.processor is not None:
        raise ValueError(f"{text.source} is a vision-language model already; give a text-only model.")
    tokenizer = copy.deepcopy(text.tokenizer)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(text, shape, image_id)
    lm = LanguageModel(model, tokenizer, source, _processor(tokenizer, shape))
    check_logits(lm)
    check_images(lm)
    return lm


def save_llava(lm: LanguageModel, folder: Path) -> None:
    """Save model and processor to a folder that `load_model` reads."""
    lm.model.save_pretrained(folder)
    assert lm.processor is not None, "a LLaVA has a processor"
    lm.processor.save_pretrained(folder)


def _model(text: LanguageModel, shape: VisionShape, image_id: int) -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            hidden_size=shape.hidden_size,
            intermediate_size=4 * shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
        ),
        text_config=copy.deepcopy(text.model.config),
        image_token_index=image_id,
        image_seq_length=(shape.image_size // shape.patch_size) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=bool(text.model.config.tie_word_embeddings),
    )
    model = LlavaForConditionalGeneration(config).to(text.dtype)
    model.model.language_model.load_state_dict(text.model.base_model.state_dict())
    model.lm_head.load_state_dict(text.model.get_output_embeddings().state_dict())
    model.generation_config = copy.deepcopy(text.model.generation_config)
    if image_id >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(image_id + 1)
    return model.to(text.device)


def _processor(tokenizer: object, shape: VisionShape) -> LlavaProcessor:
    size = {"height": shape.image_size, "width": shape.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size),
        tokenizer=tokenizer,
        patch_size=shape.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # CLS, which the "default" strategy drops
    )
