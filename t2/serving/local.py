"""The engine whose pass 2 runs in this process: a batch that rows join and leave between two steps.

    next jobs -> pass 1 -> their prompts are read -> they join the batch -> a step of all rows -> next jobs ...
    nothing to do -> one matrix more of a mixture's merged weights (`t2.serving.merged`)

Not done here: the arithmetic of a step (`t2.serving.batch`), pass 1 and the queue (`t2.serving.engine`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from t2.adaptation.strategy import PooledModel
from t2.models.language_model import LanguageModel
from t2.serving.applied import Applied
from t2.serving.batch import Batch
from t2.serving.engine import INTERNAL, Engine
from t2.serving.job import Failed, Job
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings

log = logging.getLogger(__name__)


class LocalEngine(Engine):
    """Decodes in its own thread, which owns the model."""

    def __init__(
        self, lm: LanguageModel, model: PooledModel | None, applied: Applied, settings: Settings, metrics: Metrics
    ) -> None:
        """`model` is what strategies choose with; None: there is no pool."""
        super().__init__(model, settings, metrics)
        self._batch, self.applied = Batch(lm, applied), applied

    @property
    def rows(self) -> int:
        """How many samples are being decoded."""
        return len(self._batch.rows)

    @property
    def _is_stepping(self) -> bool:
        return bool(self._batch.rows)

    @property
    def _has_spare_work(self) -> bool:
        return self.applied.copies is not None and self.applied.copies.wants_work

    def _spare(self) -> None:
        assert self.applied.copies is not None, "it has work"
        self.applied.copies.work()

    def _begin(self, jobs: Sequence[Job]) -> None:
        if self.applied.copies is not None:
            for job in jobs:
                assert job.mixture is not None, "it was chosen"
                self.applied.copies.note(job.mixture)
        self._batch.join(jobs)

    def _step(self) -> None:
        self._guarded(self._batch.step, list(self._running.values()))
        self._metrics.rows.set(self.rows)
        self._running = {number: job for number, job in self._running.items() if not job.over}

    def _tidy(self) -> None:
        self._guarded(self._batch.drop, list(self._running.values()))

    def _end(self) -> None:
        self.applied.close()

    def _recover(self) -> None:
        try:
            self._batch.drop()
        except Exception:
            log.exception("The batch was lost, and %d requests with it.", len(self._running))
            for job in self._running.values():
                job.finish(Failed(INTERNAL))
            self._batch.clear()
        self.applied.close()
