"""What a request asks of the model, and what the model's thread reports of it.

    waiting -> pass 1 (`Chosen`) -> pass 2 (`Token` for each sample and step) -> `Ended`
                                                  `Failed` instead, at any point

Not done here: HTTP (`t2.serving.app`), running jobs (`t2.serving.engine`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from t2.adaptation.strategy import Choice, Strategy
from t2.experts.mixture import Mixture
from t2.policy.rows import Row
from t2.types import Example, FinishReason, Sampling

_numbers = itertools.count()


@dataclass(frozen=True)
class Ask:
    """A prompt to complete: `prompt_ids` as the model reads it, `example` as pass 1 does.

    `by` is the mixture to complete it with, or the strategy that chooses one.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    by: Mixture | Strategy


@dataclass(frozen=True)
class Chosen:
    """Pass 1 has ended; `pass1_s` is what it took, 0 where the mixture was given."""

    choice: Choice
    pass1_s: float


@dataclass(frozen=True)
class Token:
    """Sample g has one token more; `finish` is set on its last one."""

    sample: int
    token_id: int
    log_prob: float
    finish: FinishReason | None


@dataclass(frozen=True)
class Ended:
    """All samples have ended; `pass2_s` counts from the reading of the prompt."""

    pass2_s: float


@dataclass(frozen=True)
class Failed:
    """The job has no answer. `asked_wrong`: the request is to blame; `unavailable`: what the server needs is gone."""

    message: str
    asked_wrong: bool = False
    unavailable: bool = False


Event = Chosen | Token | Ended | Failed


@dataclass
class Job:
    """An `Ask` on its way; `emit` is called in the thread that decodes.

    `cancel` may be called from any thread: the job's rows leave before the next step. `when_over` is called then.
    """

    ask: Ask
    emit: Callable[[Event], None]
    mixture: Mixture | None = None  # once it is chosen
    arrived_s: float = field(default_factory=perf_counter)
    pass2_start_s: float = 0.0
    number: int = field(default_factory=lambda: next(_numbers))
    when_over: Callable[[], object] | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        """Whether it was cancelled, or has failed or ended."""
        return self._over.is_set()

    def cancel(self) -> None:
        """Give up; nothing more is emitted."""
        self._end()

    def finish(self, event: Ended | Failed) -> None:
        """Emit the last event, unless the job is over."""
        if not self.over:
            self._end()
            self.emit(event)

    def _end(self) -> None:
        self._over.set()
        if self.when_over is not None:
            self.when_over()

    def tell(self, event: Chosen | Token) -> None:
        """Emit an event, unless the job is over."""
        if not self.over:
            self.emit(event)


@dataclass
class ServedRow:
    """One sample of a job, and its uniform number at each step, (T,) in float64."""

    job: Job
    sample: int
    row: Row
    uniforms: Tensor

    @property
    def going(self) -> bool:
        """Whether it wants another token."""
        return not (self.row.stopped or self.is_full or self.job.over)

    @property
    def is_full(self) -> bool:
        """Whether it has as many tokens as were asked for."""
        return len(self.row.tokens) >= self.job.ask.sampling.max_new_tokens


def rows_of(job: Job) -> list[ServedRow]:
    """The G rows of a job, with the random numbers that `HFGenerator.generate` draws for the prompt alone."""
    sampling = job.ask.sampling
    noise = torch.Generator().manual_seed(sampling.seed)
    uniforms = torch.rand(sampling.samples, sampling.max_new_tokens, generator=noise, dtype=torch.float64)
    return [
        ServedRow(job, g, Row(g, job.ask.prompt_ids, job.ask.example.images), uniforms[g])
        for g in range(sampling.samples)
    ]
