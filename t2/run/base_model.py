"""What a composed configuration says of the base model that the command line decides: its checksum, and its dtype.

A checksum in a YAML is that of the YAML's own source: where the command line gives another source and no checksum,
there is none. `dtype: auto` becomes bfloat16 where the model is on a GPU that has it, float16 on another, and float32
on the CPU, so that a run's saved configuration names what it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from t2.run.places import CONF
from t2.run.words import for_shell, key_of

log = logging.getLogger(__name__)
AUTO = "auto"


def settle_base_model(cfg: DictConfig, words: Sequence[str]) -> None:
    """Drop the checksum of a source that the words of the command line have replaced, and decide a dtype `auto`."""
    base_model: Any = cfg.get("base_model")
    if not isinstance(base_model, DictConfig):
        return
    given = {key_of(word) for word in words}
    if "base_model.source" in given and "base_model.sha256" not in given and base_model.get("sha256") is not None:
        base_model.sha256 = None
    if base_model.get("dtype") == AUTO:
        base_model.dtype = _dtype(str(base_model.get("device", "cpu")), named_gpu=bool(cfg.get("gpu")))


def words_for_source(source: str) -> str:
    """How the base model of a source is chosen on a command line: by its YAML, which may set the chat template."""
    for path in sorted((CONF / "base_model").glob("*.yaml")):
        known = OmegaConf.load(path)
        if isinstance(known, DictConfig) and known.get("source", "") == source:
            return f"base_model={path.stem}"
    if source.startswith("tiny:"):  # made in memory, not loaded from a source
        return f"base_model={'tiny_llava' if 'llava' in source else 'tiny'}"
    return f"base_model=any {for_shell('base_model.source', source)}"


def tell_source(cfg: DictConfig, words: Sequence[str]) -> None:
    """Log what a source on the command line leaves as another model's YAML has it."""
    given = {key_of(word) for word in words}
    base_model: Any = cfg.get("base_model")
    if "base_model.source" not in given or OmegaConf.is_missing(base_model, "source"):
        return
    is_file = str(base_model.source).startswith("pypi:") or str(base_model.source).endswith(".gguf")
    if is_file and base_model.get("sha256", "") is None and "base_model.sha256" not in given:
        log.info("base_model.source=%s is not compared with a checksum.", base_model.source)
    is_slow = base_model.get("device") == "cpu" and base_model.get("dtype") == "float32"
    if is_slow and "base_model.device" not in given and torch.cuda.is_available():
        log.warning(
            "base_model.source=%s is loaded in float32 on the CPU, as the YAML of base_model says, and there is a GPU "
            "here: base_model=any base_model.source=%s takes it, in the dtype that suits it.",
            base_model.source,
            base_model.source,
        )


def _dtype(device: str, *, named_gpu: bool) -> str:
    if device == "cpu" or not (named_gpu or torch.cuda.is_available()):
        return "float32"
    return "bfloat16" if named_gpu or torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
