"""The engine whose pass 2 runs on a vLLM server: pass 1 here, then prompts and tokens over HTTP.

    thread "model": next jobs -> pass 1 (our own model, the adapter in the factored mode) -> their mixtures
    thread "vllm":  mixture -> name of a LoRA -> POST /v1/completions, streamed -> the events of every engine

What a request gets is what the local engine gives it: places, limits, events and metrics are `t2.serving.engine`'s.
Samples with a seed are vLLM's own. Not done here: starting the server (`t2.serving.vllm_process`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, nullcontext
from typing import Any, TypeVar

from t2.adaptation.strategy import PooledModel
from t2.models.language_model import LanguageModel
from t2.serving.engine import INTERNAL, Engine
from t2.serving.job import Failed, Job
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.serving.vllm_api import PROBE, VLLMAPI, Unavailable, base_log_probs
from t2.serving.vllm_limits import Refused
from t2.serving.vllm_loras import LoRAs

log = logging.getLogger(__name__)
T = TypeVar("T")


class VLLMEngine(Engine):
    """Decodes on a server. `is_up` says whether the server, where it is our own process, still runs."""

    def __init__(
        self,
        lm: LanguageModel,
        model: PooledModel | None,
        api: VLLMAPI,
        loras: LoRAs | None,
        settings: Settings,
        metrics: Metrics,
        is_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """`model` and `loras` are None without a pool. Nothing is sent before `connect`."""
        super().__init__(model, settings, metrics)
        self._lm, self._api, self.loras, self._is_up = lm, api, loras, is_up
        self._base = ""  # the base's name on the server
        self._places = 0  # taken
        self._loop = asyncio.new_event_loop()
        self._streams = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._streams.start()

    def connect(self) -> None:
        """Compare the server's model with ours, and have it load the experts.

        Raises:
            ConnectionError: it cannot be reached, or does not take a LoRA.
            ValueError: it has another model, or a LoRA would leave out too much.
        """
        ids = self._lm.encode(PROBE)
        with nullcontext() if self.loras is None else self.loras.adapter.disabled():
            ours = base_log_probs(self._lm, ids)
        self._base, length = self._await(self._api.check(self._lm.source, ids, ours))
        self._lm.context_length = min(self._lm.context_length, length)
        if self.loras is None:
            return
        try:
            self._await(self.loras.load_experts(self._api))
        except Unavailable as error:
            raise ConnectionError(str(error)) from None

    def close(self) -> None:
        """Let go of LoRAs and connections; the last call. A server that has ended is asked nothing."""
        if self.loras is not None:
            try:
                self._await(self.loras.close(self._api if self._is_up() else None))
            except Unavailable as error:
                log.warning("LoRAs are left on the vLLM server: %s", error)
        self._await(self._api.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._streams.join()
        self._loop.close()

    @property
    def rows(self) -> int:
        """How many samples are on the server."""
        return self._places

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being taken, and the server runs."""
        return super().is_alive and self._is_up()

    def _begin(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            self._places += sum(job.ask.sampling.samples for job in jobs)
        self._metrics.rows.set(self._places)
        for job in jobs:
            asyncio.run_coroutine_threadsafe(self._answer(job), self._loop)

    @property
    def _is_stepping(self) -> bool:
        return False

    @property
    def _has_spare_work(self) -> bool:
        return False

    def _spare(self) -> None:
        """Nothing can wait."""

    def _step(self) -> None:
        """Nothing: the server steps."""

    def _tidy(self) -> None:
        """Nothing: places are freed as answers end."""

    def _end(self) -> None:
        """Nothing is left: the thread waits until no place is taken."""

    def _recover(self) -> None:
        """Nothing: only pass 1 failed."""

    async def _answer(self, job: Job) -> None:
        """Pass 2 of a job, whose places are free afterwards whatever happens."""
        gone = asyncio.Event()
        job.when_over = lambda: self._loop.call_soon_threadsafe(gone.set)
        try:
            if not job.over:  # nor has it been since the line above
                await _unless(self._stream(job), gone.wait())
        except Unavailable as error:
            log.warning("%s", error)
            job.finish(Failed(str(error), unavailable=True))
        except Refused as error:
            job.finish(Failed(str(error), asked_wrong=True))
        except Exception:
            log.exception("A request failed.")
            job.finish(Failed(INTERNAL))
        finally:
            job.when_over = None
            self._running.pop(job.number, None)
            with self._changed:
                self._places -= job.ask.sampling.samples
                self._changed.notify()
            self._metrics.rows.set(self._places)

    async def _stream(self, job: Job) -> None:
        assert job.mixture is not None, "pass 1 comes before"
        if self.loras is None:
            await self._tokens(job, self._base)
            return
        async with self.loras.holding(self._api, job.mixture) as name:
            await self._tokens(job, name or self._base)

    async def _tokens(self, job: Job, name: str) -> None:
        async with aclosing(self._api.complete(job.ask, name, sorted(self._lm.end_ids))) as tokens:
            async for token in tokens:
                job.tell(token)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _unless(work: Coroutine[Any, Any, None], ended: Coroutine[Any, Any, Any]) -> None:
    """Do the work, or as much of it as there is time for until the other ends."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(ended)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
