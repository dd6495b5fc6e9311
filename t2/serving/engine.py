"""What runs the jobs of requests: a queue with places, pass 1 in a thread of its own, and then pass 2.

    submit -> waiting -> places are free -> pass 1, one batch for each strategy -> pass 2, by a subclass

Pass 2 runs in the same thread (`t2.serving.local`), or on a vLLM server (`t2.serving.vllm_engine`). Not done here: HTTP
(`t2.serving.app`), pass 1 itself (`t2.serving.first_pass`).
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch

from t2.adaptation.strategy import PooledModel
from t2.serving.first_pass import FirstPass
from t2.serving.job import Ask, Ended, Event, Failed, Job, Token
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings

log = logging.getLogger(__name__)
INTERNAL = "The server failed while it answered; its log says more. Send the request again."
STOPPED = "The server is stopping. Send the request to another one, or later."


class QueueFull(Exception):
    """As many requests wait as may."""


class Stopping(Exception):
    """The server takes no new requests."""


class Engine(ABC):
    """Runs jobs in a thread of its own; `submit` and `stop` may be called from others."""

    def __init__(self, model: PooledModel | None, settings: Settings, metrics: Metrics) -> None:
        """`model` is what strategies choose with; None: there is no pool."""
        self._first, self._settings, self._metrics = FirstPass(model, metrics), settings, metrics
        self._running: dict[int, Job] = {}  # by number
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many samples are being decoded."""

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being taken."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many jobs have no place yet."""
        return len(self._waiting)

    @property
    def is_stopping(self) -> bool:
        """Whether new jobs are refused."""
        return self._stopping

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def submit(self, ask: Ask, emit: Callable[[Event], None]) -> Job:
        """Let a job wait for its places.

        Raises:
            QueueFull: as many jobs wait as may.
            Stopping: `stop` was called.
        """
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise Stopping(STOPPED)
            waiting = sum(not job.over for job in self._waiting)
            free = waiting == 0 and self.rows + ask.sampling.samples <= self._settings.max_concurrent
            if waiting >= self._settings.max_waiting and not free:
                raise QueueFull(
                    f"{waiting} requests wait, and no more than {self._settings.max_waiting} may. Send it again later."
                )
            job = Job(ask, emit)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def refuse(self) -> None:
        """Take no new jobs; those that were taken go on."""
        self._stopping = True

    def stop(self, timeout_s: float | None = None) -> None:
        """Take no new jobs, and return when the thread has ended; jobs that are left after `timeout_s` fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            for job in [*self._waiting, *list(self._running.values())]:
                job.finish(Failed(STOPPED))
            self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while (joining := self._next()) is not None:
                    self._guarded(partial(self._admit, joining), joining)
                    self._step()
        finally:
            with self._changed:
                self._stopping = True
            for job in [*self._waiting, *list(self._running.values())]:  # none, unless the thread ends by a failure
                job.finish(Failed(INTERNAL))
            self._end()

    @abstractmethod
    def _begin(self, jobs: Sequence[Job]) -> None:
        """Begin with pass 2 of jobs whose mixtures are chosen."""

    @abstractmethod
    def _step(self) -> None:
        """What is done between two looks at the queue."""

    @abstractmethod
    def _tidy(self) -> None:
        """Free the places of what has ended; called before places are given away, with the lock."""

    @abstractmethod
    def _end(self) -> None:
        """Let go of what was held; the last that the thread does."""

    @abstractmethod
    def _recover(self) -> None:
        """Make what is held usable again after a failure."""

    @property
    @abstractmethod
    def _is_stepping(self) -> bool:
        """Whether `_step` has something to do also where no job joins."""

    @property
    @abstractmethod
    def _has_spare_work(self) -> bool:
        """Whether `_spare` has something to do."""

    @abstractmethod
    def _spare(self) -> None:
        """Do a little of what can wait; called while there is nothing else to do."""

    def _next(self) -> list[Job] | None:
        """The jobs that join before the next step; waits where nothing is to be done. None: nothing ever will be."""
        while True:
            with self._changed:
                self._tidy()
                joining = self._take()
                self._metrics.waiting.set(len(self._waiting))
                if joining or self._is_stepping:
                    return joining
                if self._stopping and not self._waiting and not self.rows:
                    return None
                if not self._has_spare_work:
                    self._changed.wait()
                    continue
            self._guarded(self._spare, ())

    def _take(self) -> list[Job]:
        """The first of the waiting whose samples have places, and whose prompts are not too long together."""
        taken: list[Job] = []
        places, tokens = self._settings.max_concurrent - self.rows, 0
        while self._waiting:
            job = self._waiting[0]
            samples, length = job.ask.sampling.samples, len(job.ask.prompt_ids)
            if not job.over and (samples > places or (taken and tokens + length > self._settings.prefill_tokens)):
                break
            self._waiting.popleft()
            if not job.over:
                taken.append(job)
                places, tokens = places - samples, tokens + length
        return taken

    def _admit(self, jobs: Sequence[Job]) -> None:
        """Run pass 1 of the jobs, and begin with their pass 2."""
        self._first.choose(jobs)
        ready = [job for job in jobs if not job.over]
        for job in ready:
            job.pass2_start_s = perf_counter()
            self._running[job.number] = job
            job.emit = self._counted(job, job.emit)
        if ready:
            self._begin(ready)

    def _counted(self, job: Job, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        """`emit`, which counts tokens too, and ends the job after the last one of its last sample."""
        left, first = job.ask.sampling.samples, True

        def counted(event: Event) -> None:
            nonlocal left, first
            emit(event)
            if not isinstance(event, Token):
                return
            self._metrics.completion_tokens.inc()
            if first:
                first = False
                self._metrics.first_token_s.observe(perf_counter() - job.arrived_s)
            left -= event.finish is not None
            if not left:
                pass2_s = perf_counter() - job.pass2_start_s
                self._metrics.pass2_s.observe(pass2_s)
                job.finish(Ended(pass2_s))

        return counted

    def _guarded(self, work: Callable[[], None], jobs: Sequence[Job]) -> None:
        """Do it; where it fails, so do these jobs, and the thread goes on with the others."""
        try:
            work()
        except Exception:
            log.exception("The model failed, and %d requests with it.", len(jobs))
            for job in jobs:
                job.finish(Failed(INTERNAL))
            self._recover()
