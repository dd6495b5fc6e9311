"""A small LLaVA: a vision encoder and a projector put in front of a language model of text (arXiv 2304.08485).

    image -> patches -> encoder (CLIP's vision transformer, any size) -> projector -> the language model's input space

The language model's weights are those it had; encoder and projector are random until they are trained
(`t2.vision_warmup`). What comes out is an ordinary model folder of transformers. Nothing here trains.
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

from t2.models.language_model import LanguageModel
from t2.models.loading import check_images, check_logits

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class VisionShape:
    """How large the vision encoder is; an image becomes (image_size / patch_size)^2 tokens."""

    image_size: int = 32
    patch_size: int = 8
    hidden_size: int = 192
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that do not go together."""
        if min(self.image_size, self.patch_size, self.hidden_size, self.layers, self.heads) < 1:
            raise ValueError(f"All sizes of a vision encoder are at least 1; got {self}.")
        if self.image_size % self.patch_size or self.hidden_size % self.heads:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}, and hidden_size="
                f"{self.hidden_size} one of heads={self.heads}."
            )


def build_llava(text: LanguageModel, shape: VisionShape, *, source: str, seed: int = 0) -> LanguageModel:
    """A model that sees, with the language model of `text` and a random encoder and projector.

    The text model is left as it is. A model without tied embeddings keeps them untied.

    Raises:
        ValueError: the model sees already.
    """
    if text.processor is not None:
        raise ValueError(f"{text.source} sees already; give a model of text alone.")
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
    """Write model and processor where `load_model` reads them."""
    lm.model.save_pretrained(folder)
    assert lm.processor is not None, "it sees"
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
        num_additional_image_tokens=1,  # CLS, which "default" leaves out again
    )
