"""How many tokens a model's context has.

LongRoPE (arXiv 2402.13753) has two sets of rotary frequencies, and transformers takes the one for long texts wherever
any row of a forward pass is longer than the length that the model was first trained for: numbers would depend on what
a prompt is batched with, and keys of one set would meet queries of the other. So its context ends there.
"""

from __future__ import annotations

import logging
import sys

from transformers import PretrainedConfig

log = logging.getLogger(__name__)


def context_length(config: PretrainedConfig, source: str, *, is_recurrent: bool) -> int:
    """The number of tokens that a prompt and its answer may have together.

    Raises:
        ValueError: the config does not say it.
    """
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    if length is None and is_recurrent:
        return sys.maxsize  # a running state has no last position
    if length is None:
        raise ValueError(f"{source}: the config names no max_position_embeddings, so the context is unknown.")
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [one for one in (rope, *rope.values()) if isinstance(one, dict) and one.get("rope_type") == "longrope"]
    firsts = [int(one.get("original_max_position_embeddings") or length) for one in kinds]
    if firsts and min(firsts) < length:
        log.info("%s has LongRoPE: of its %d positions the first %d are used, where its frequencies are one set.",
                 source, length, min(firsts))  # fmt: skip
        return min(firsts)
    return int(length)
