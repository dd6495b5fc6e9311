"""Random vision-language models of a few thousand weights, each with its own processor, for the zoo.

A processor is made in memory of a byte tokenizer with the tokens of its family and an image processor that needs no
torchvision; its part for videos, which would, is left out (`t2.models.processors.NoVideos`). Not done here: what is
looked at (`bench/zoo_row.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from zoo_models import SMALL, NotBuilt

from t2.models.language_model import LanguageModel
from t2.models.processors import NoVideos, without_videos
from t2.models.tiny import byte_tokenizer

VISION = SMALL | {
    "depth": 2, "embed_dim": 32, "out_hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_heads": 2, "head_dim": 16, "image_size": 32, "patch_size": 8, "mlp_ratio": 2, "vision_use_head": False,
}  # fmt: skip
_SQUARE = {"height": 32, "width": 32}
_TILES = [[32, 64], [64, 32], [64, 64]]
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_QWEN_TOKENS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_PIXELS = {"patch_size": 8, "size": {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}}
_QWEN3_TOKENS = _QWEN_TOKENS | {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
_QWEN3_5 = _MROPE | {"layer_types": ["linear_attention", "full_attention"]}
_DEEPSTACK = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
_GLM_TOKENS = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_ROPE = {"rope_parameters": _MROPE["rope_parameters"] | {"partial_rotary_factor": 1.0}}
_PLAIN_TOKENS = {"image_token": "<image>", "video_token": "<video>"}
_TAGS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}
_TAGS |= {f"row_{row}_col_{column}": f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)}
_EDGES = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}


@dataclass(frozen=True)
class Family:
    """What is special about one: names of classes of transformers, and what its sizes have to be."""

    processor: str
    image_processor: str
    pixels: Mapping[str, Any]  # settings of the image processor
    tokens: Mapping[str, str] = field(default_factory=lambda: _PLAIN_TOKENS)  # by the tokenizer's attribute
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the processor
    config: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    text_type: str = ""  # model type of the text model where the config leaves it open
    vision_type: str = ""  # and of the encoder


FAMILIES: dict[str, Family] = {
    "gemma3": Family(
        "Gemma3Processor", "Gemma3ImageProcessorPil", {"size": _SQUARE},
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        settings={"image_seq_length": 4}, config={"mm_tokens_per_image": 4},
        text={"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma4": Family(
        "Gemma4Processor", "Gemma4ImageProcessorPil", {"patch_size": 2, "max_soft_tokens": 70},
        {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>", "audio_token": "<|audio|>",
         "boa_token": "<|audio>", "eoa_token": "<audio|>"},
        text={"use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0, "sliding_window": 64,
              "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 8},
        vision={"patch_size": 2, "position_embedding_size": 64},
        config={"audio_config": None}, vision_type="gemma4_vision",
    ),
    "glm4v": Family(
        "Glm4vProcessor", "Glm4vImageProcessorPil", _QWEN_PIXELS,
        _GLM_TOKENS, text=_GLM_ROPE,
    ),
    "glm46v": Family(
        "Glm46VProcessor", "Glm46VImageProcessorPil", _QWEN_PIXELS, _GLM_TOKENS, text=_GLM_ROPE, text_type="glm4v_text",
        vision_type="glm4v_vision",
    ),
    "glm4v_moe": Family("Glm4vProcessor", "Glm4vImageProcessorPil", _QWEN_PIXELS, _GLM_TOKENS, text=_GLM_ROPE),
    "idefics2": Family(
        "Idefics2Processor", "Idefics2ImageProcessorPil", {"size": {"shortest_edge": 32, "longest_edge": 48}},
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"}, settings={"image_seq_len": 4},
        config={"perceiver_config": {"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1,
                                     "resampler_n_heads": 2, "resampler_head_dim": 8, "num_key_value_heads": 2}},
        text_type="mistral",
    ),
    "idefics3": Family(
        "Idefics3Processor", "Idefics3ImageProcessorPil", _EDGES, _TAGS, settings={"image_seq_len": 4},
        text_type="llama",
    ),
    "internvl": Family(
        "InternVLProcessor", "GotOcr2ImageProcessorPil", {"size": _SQUARE, "max_patches": 4},
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"},
        settings={"image_seq_length": 4}, config={"image_seq_length": 4}, text_type="qwen2",
    ),
    "llava": Family(
        "LlavaProcessor", "CLIPImageProcessorPil", {"size": _SQUARE, "crop_size": _SQUARE, "do_center_crop": False},
        settings={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        config={"vision_feature_layer": -1}, text_type="llama",
    ),
    "llava_next": Family(
        "LlavaNextProcessor", "LlavaNextImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": _SQUARE, "image_grid_pinpoints": _TILES},
        settings={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        config={"image_grid_pinpoints": _TILES}, text_type="llama",
    ),
    "llava_onevision": Family(
        "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessorPil",
        {"size": _SQUARE, "image_grid_pinpoints": _TILES},
        settings={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        config={"image_grid_pinpoints": _TILES}, text_type="qwen2",
    ),
    "mistral3": Family(
        "PixtralProcessor", "PixtralImageProcessorPil",
        {"size": {"longest_edge": 32}, "patch_size": {"height": 8, "width": 8}},
        {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
        settings={"patch_size": 8, "spatial_merge_size": 2, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]",
                  "image_end_token": "[IMG_END]"}, text_type="mistral",
    ),
    "paligemma": Family(
        "PaliGemmaProcessor", "SiglipImageProcessorPil", {"size": _SQUARE, "image_seq_length": 16},
        {"image_token": "<image>"}, config={"projection_dim": 32, "hidden_size": 32},
        vision={"projection_dim": 32}, text_type="gemma",
    ),
    "qwen2_vl": Family(
        "Qwen2VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS, _QWEN_TOKENS, text=_MROPE,
        vision={"hidden_size": 32},
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS, _QWEN_TOKENS, text=_MROPE,
        vision={"fullatt_block_indexes": [1], "window_size": 32},
    ),
    "qwen3_vl": Family(
        "Qwen3VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS,
        _QWEN3_TOKENS, text=_MROPE, vision=_DEEPSTACK,
    ),
    "qwen3_vl_moe": Family(
        "Qwen3VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS, _QWEN3_TOKENS, text=_MROPE, vision=_DEEPSTACK,
    ),
    "qwen3_5": Family(
        "Qwen3VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS, _QWEN3_TOKENS, text=_QWEN3_5, vision=_DEEPSTACK,
    ),
    "qwen3_5_moe": Family(
        "Qwen3VLProcessor", "Qwen2VLImageProcessorPil", _QWEN_PIXELS, _QWEN3_TOKENS, text=_QWEN3_5, vision=_DEEPSTACK,
    ),
    "smolvlm": Family(
        "SmolVLMProcessor", "SmolVLMImageProcessorPil", _EDGES, _TAGS, settings={"image_seq_len": 4},
        text_type="llama",
    ),
}  # fmt: skip


def vision_architectures() -> list[str]:
    """The model types of transformers' models of images and text, sorted."""
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def tiny_vision(model_type: str, *, seed: int = 0) -> LanguageModel:
    """A random vision-language model of a type; torch's global seed stays.

    Raises:
        NotBuilt: it is not among FAMILIES, or its processor needs a package that is not installed.
        ValueError: t2 refuses the model.
    """
    if model_type not in FAMILIES:
        raise NotBuilt("no tiny processor is known")
    family = FAMILIES[model_type]
    tokenizer = byte_tokenizer(extra=family.tokens)
    try:
        processor = _processor(family, tokenizer)
    except ImportError as error:
        reason = str(error).strip().partition(". ")[0].partition(" but ")[0]
        raise NotBuilt(reason.replace("`", "")) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(_config(model_type, family, processor))
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)  # initialized to zero, which would hide a missing bias
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return LanguageModel(model.eval(), tokenizer, f"tiny:{model_type}", processor)


def _processor(family: Family, tokenizer: Any) -> Any:
    image_processor = getattr(transformers, family.image_processor)(**family.pixels)
    kind = without_videos(getattr(transformers, family.processor))
    parts = {"tokenizer": tokenizer, "image_processor": image_processor, "video_processor": NoVideos()}
    if "feature_extractor" in kind.get_attributes():
        parts["feature_extractor"] = transformers.Gemma4AudioFeatureExtractor()
    return kind(**{name: parts[name] for name in kind.get_attributes()}, **family.settings)


def _config(model_type: str, family: Family, processor: Any) -> Any:
    kind = CONFIG_MAPPING[model_type]
    default = kind()
    tokenizer = processor.tokenizer
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image_token_id": getattr(tokenizer, "image_token", processor.image_token),
            "video_token_id": getattr(processor, "video_token", None),
            "audio_token_id": getattr(processor, "audio_token", None),
            "boi_token_id": getattr(tokenizer, "boi_token", None),
            "eoi_token_id": getattr(tokenizer, "eoi_token", None),
            "vision_start_token_id": getattr(tokenizer, "vision_start_token", None),
            "vision_end_token_id": getattr(tokenizer, "vision_end_token", None),
        }.items()
        if token is not None
    }
    vocabulary = {"vocab_size": len(tokenizer)}
    aliases = getattr(default, "attribute_map", {})
    known = {*default.to_dict(), *aliases}
    text = _small(_part(default.text_config, family.text_type), {**SMALL, **vocabulary, **family.text})
    vision = _small(_part(default.vision_config, family.vision_type), {**VISION, **family.vision})
    return kind(
        text_config=text,
        vision_config=vision,
        **{aliases.get(name, name): value for name, value in ids.items() if name in known},
        **family.config,
    )


def _part(default: Any, model_type: str) -> Any:
    return CONFIG_MAPPING[model_type]() if model_type else default


def _small(default: Any, sizes: Mapping[str, Any]) -> dict[str, Any]:
    aliases = getattr(default, "attribute_map", {})
    known = {*default.to_dict(), *aliases, "global_head_dim"}
    small = {aliases.get(name, name): value for name, value in sizes.items() if name in known}
    return {"model_type": default.model_type, **small}
