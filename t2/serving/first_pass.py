"""Pass 1 of jobs that come together: one batch for each strategy (paper §3.2).

Not done here: when it runs (`t2.serving.engine`), what a strategy does (`t2.adaptation`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from time import perf_counter

from t2.adaptation.strategy import Choice, CompletingStrategy, PooledModel
from t2.experts.mixture import Mixture
from t2.serving.job import Ask, Chosen, Failed, Job
from t2.serving.metrics import Metrics


class FirstPass:
    """Chooses mixtures; `model` is what strategies choose with, None where there is no pool."""

    def __init__(self, model: PooledModel | None, metrics: Metrics) -> None:
        """Seconds are counted in `metrics`."""
        self._model, self._metrics = model, metrics

    def choose(self, jobs: Sequence[Job]) -> None:
        """Give each job its mixture, and tell it; a job whose prompt is refused fails alone."""
        together: dict[Hashable, list[Job]] = {}
        for job in jobs:
            together.setdefault(_kind(job.ask), []).append(job)
        for group in together.values():
            self._choose(group)

    def _choose(self, jobs: Sequence[Job]) -> None:
        """Choose the mixtures of jobs of one kind."""
        start, by = perf_counter(), jobs[0].ask.by
        if isinstance(by, Mixture):
            for job in jobs:
                assert isinstance(job.ask.by, Mixture), "they were grouped so"
                _set(job, Choice(job.ask.by), 0.0)
            return
        assert self._model is not None, "strategies need a pool"
        try:
            examples = [job.ask.example for job in jobs]
            if isinstance(by, CompletingStrategy):
                choices = by.complete(self._model, examples, jobs[0].ask.sampling)[0]
            else:
                choices = by.choose(self._model, examples)
        except ValueError as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._choose([job])
            else:
                jobs[0].finish(Failed(str(error), asked_wrong=True))
            return
        pass1_s = perf_counter() - start
        self._metrics.pass1_s.observe(pass1_s)
        for job, choice in zip(jobs, choices, strict=True):
            self._model.pool.check_mixture(choice.mixture)
            _set(job, choice, pass1_s)


def _kind(ask: Ask) -> Hashable:
    """What jobs have in common whose mixtures are chosen together: a strategy, and how far it may have to complete."""
    if isinstance(ask.by, Mixture):
        return None
    if isinstance(ask.by, CompletingStrategy):
        return id(ask.by), ask.sampling.max_new_tokens, ask.sampling.stop
    return id(ask.by)


def _set(job: Job, choice: Choice, pass1_s: float) -> None:
    job.mixture = choice.mixture
    job.tell(Chosen(choice, pass1_s))
