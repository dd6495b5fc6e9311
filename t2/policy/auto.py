"""Chooses the back end: vLLM where it is installed, else transformers; the log says which."""

from __future__ import annotations

import logging

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator, Worn
from t2.policy.hf import HFGenerator
from t2.policy.vllm import EngineSettings, VLLMGenerator, check_installed

log = logging.getLogger(__name__)


def auto_generator(
    lm: LanguageModel,
    adapter: Adapter | None = None,
    *,
    worn: Worn = "merged",
    batch_rows: int = 64,
    dtype: str | None = None,
    progress: bool = False,
    engine: EngineSettings | None = None,
) -> Generator:
    """A VLLMGenerator if vLLM is installed, with `engine`; else an HFGenerator with the other settings."""
    try:
        version = check_installed()
    except ImportError:
        log.info("Answers come from transformers (vLLM is not installed).")
        return HFGenerator(lm, adapter, worn=worn, batch_rows=batch_rows, dtype=dtype, progress=progress)
    log.info("Answers come from vLLM %s.", version)
    return VLLMGenerator(lm, adapter, worn=worn, engine=engine)
