"""Where pass 2 of a server's requests runs: in its own process, or on a vLLM server.

    backend=hf      `t2.serving.local`          any mixture, exact, no weight written
    backend=vllm    `t2.serving.vllm_engine`    mixtures as LoRAs, on a `vllm serve` of ours or of somebody else's

Not done here: the engines themselves.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.precision import dtype_name
from t2.policy.vllm_serve import cpu_words, model_words
from t2.run.messages import check_range
from t2.serving.applied import Applied
from t2.serving.engine import Engine
from t2.serving.local import LocalEngine
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.serving.vllm_api import VLLMAPI
from t2.serving.vllm_engine import VLLMEngine
from t2.serving.vllm_limits import Limits
from t2.serving.vllm_loras import LoRAs
from t2.serving.vllm_process import VLLMProcess, started

log = logging.getLogger(__name__)
UPSTREAM_KEY = "VLLM_API_KEY"  # vLLM's own variable


@dataclass(frozen=True)
class Model:
    """What an engine serves: the model, and with a pool what strategies choose with, and the adapter."""

    lm: LanguageModel
    pooled: PooledModel | None
    adapter: SVF | None


class Backend(Protocol):
    """Makes the engine of a server."""

    def engine(self, model: Model, settings: Settings, metrics: Metrics) -> AbstractContextManager[Engine]:
        """The engine, which is let go of with the block."""


@dataclass(frozen=True)
class HFBackend:
    """Pass 2 in this process; `merged_copies` is how many mixtures may have merged weights in memory."""

    merged_copies: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a number below 0."""
        check_range("backend.merged_copies", self.merged_copies, at_least=0)

    @contextmanager
    def engine(self, model: Model, settings: Settings, metrics: Metrics) -> Iterator[Engine]:
        """The engine.

        Raises:
            ValueError: a model that remembers more than keys and values, or one whose examples cannot have states of
                their own.
        """
        if model.adapter is not None and model.adapter.why_one_state is not None:
            raise ValueError(
                f"{model.adapter.why_one_state} backend=hf answers requests with different experts in one batch. Use "
                "backend=vllm, or serve merged weights (export.py to=hf)."
            )
        pool = None if model.pooled is None else model.pooled.pool
        applied = Applied(model.adapter, pool, model.lm.index_device, self.merged_copies)
        yield LocalEngine(model.lm, model.pooled, applied, settings, metrics)


@dataclass(frozen=True)
class VLLMBackend:
    """Pass 2 on a vLLM server.

    Args:
        folder: of the LoRAs, which the server has to see under the same path, and of the log of one of ours.
        url: a server that runs, without /v1; None: start one. Its key is the variable VLLM_API_KEY.
        python: the Python to start one with; None: this process's.
        options: more words for a server of ours, as [--gpu-memory-utilization, "0.8"].
        start_timeout_s: what a server of ours may take until it answers.
        rank, max_error, mixtures: see `t2.serving.vllm_limits.Limits`.
        loras_per_batch: how many different mixtures vLLM decodes together.

    Raises:
        ValueError: a setting that no server could have.
    """

    folder: Path | str
    url: str | None = None
    python: str | None = None
    options: Sequence[str] = ()
    start_timeout_s: float = 600.0
    rank: int = 512
    max_error: float = 0.1
    mixtures: int = 8
    loras_per_batch: int = 4

    def __post_init__(self) -> None:
        """Check what the settings alone can get wrong."""
        Limits(self.rank, self.max_error, self.mixtures)
        check_range("backend.loras_per_batch", self.loras_per_batch, at_least=1)
        check_range("backend.start_timeout_s", self.start_timeout_s, above=0)
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"backend.url is {self.url!r}; allowed: an address such as http://127.0.0.1:8001.")
        if self.url is not None and (self.python is not None or self.options):
            raise ValueError("backend.url names a server that runs; leave out backend.python and backend.options.")

    @contextmanager
    def engine(self, model: Model, settings: Settings, metrics: Metrics) -> Iterator[Engine]:
        """The engine, connected; a server that was started for it ends with the block.

        Raises:
            ConnectionError: the server cannot be reached, or does not start.
            ImportError, FileNotFoundError: there is no vLLM to start.
            ValueError: the server has another model, or the pool's experts are no LoRAs of this rank.
        """
        loras = self._loras(model)
        if loras is not None:
            loras.check()  # before minutes are spent on a server
        words = self._words(model, 0 if loras is None else len(loras.pool.domains))
        with ExitStack() as inside:
            url, key, process = self.url, os.environ.get(UPSTREAM_KEY), None
            if url is None:
                process, key = self._start(inside, words)
                url = process.url
            api = VLLMAPI(url, key=key, timeout_s=settings.timeout_s, start=_command(words))
            is_up = (lambda: True) if process is None else (lambda: process.is_up)
            engine = VLLMEngine(model.lm, model.pooled, api, loras, settings, metrics, is_up)
            inside.callback(engine.close)
            engine.connect()
            yield engine

    def _loras(self, model: Model) -> LoRAs | None:
        if model.pooled is None or model.adapter is None:
            return None
        limits = Limits(self.rank, self.max_error, self.mixtures)
        return LoRAs(model.lm, model.adapter, model.pooled.pool, Path(self.folder) / "loras", limits)

    def _start(self, inside: ExitStack, words: Sequence[str]) -> tuple[VLLMProcess, str]:
        """A server that answers, and its key: nobody else on this machine is to use it."""
        key, log_file = secrets.token_hex(16), Path(self.folder) / "vllm.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log.info("Starting vLLM, which takes a while; its log is %s", log_file)
        words = [*words, *map(str, self.options)]
        process = inside.enter_context(started(words, python=self.python, port=port, key=key, log_file=log_file))
        process.wait(self.start_timeout_s)
        return process, key

    def _words(self, model: Model, experts: int) -> list[str]:
        """The words for a server of this model and as many experts."""
        lm = model.lm
        words = [*model_words(lm.source), "--dtype", dtype_name(lm.dtype), "--max-model-len", str(lm.context_length)]
        words += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"]
        if not torch.cuda.is_available():
            words += ["--enforce-eager", *cpu_words()]
        if experts:
            words += ["--enable-lora", "--max-lora-rank", str(self.rank), "--max-loras", str(self.loras_per_batch)]
            words += ["--max-cpu-loras", str(max(self.loras_per_batch, experts + self.mixtures))]
        return words


def _command(words: Sequence[str]) -> str:
    """What starts a server with these words in a terminal."""
    return f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {shlex.join(words[1:])}"
