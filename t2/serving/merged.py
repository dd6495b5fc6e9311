"""Merged weights of the mixtures that are asked for most: a forward pass whose rows share one is x W'ᵀ alone.

A copy is as large as the adapted matrices. It is made in idle time, one matrix between two looks at the queue, so that
a request waits for one at most; where the server is never idle, none is made. In half precision there are none: W'
rounds small changes of z away there, and an answer would depend on what was asked before.

Not done here: which rows a forward pass has (`t2.serving.applied`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from t2.adaptation.two_pass import is_base
from t2.adapters.svf import SVF
from t2.adapters.svf_injection import restored
from t2.adapters.svf_linear import SVFLinear
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.quantized_linear import QuantizedLinear
from t2.run.messages import check_range

log = logging.getLogger(__name__)
NOTED = 256  # uses, after which all counts are halved: what was asked for long ago weighs less
MORE = 1.5  # times as often as a mixture has to be asked for to take the place of another


class MergedCopies:
    """Holds at most a number of copies, each a weight for every adapted matrix."""

    def __init__(self, adapter: SVF, pool: ExpertPool, most: int) -> None:
        """Hold none yet.

        Raises:
            ValueError: `most` is below 0.
        """
        check_range("backend.merged_copies", most, at_least=0)
        units = adapter.units.values()
        if most and any(unit.layer.input_factor.dtype != torch.float32 for unit in units):
            log.info("No merged copies are held: the model is in half precision, where they would change answers.")
            most = 0
        if most and any(isinstance(getattr(unit.layer, "base", None), QuantizedLinear) for unit in units):
            log.info("No merged copies are held: the base is quantized, and merges nothing.")
            most = 0
        self.adapter, self._pool, self.most = adapter, pool, most
        self.uses: Counter[Mixture] = Counter()
        self._copies: dict[Mixture, list[Tensor]] = {}
        self._coming: tuple[Mixture, list[Tensor], Iterator[tuple[str, Tensor]]] | None = None

    def note(self, mixture: Mixture) -> None:
        """Count a request for a mixture."""
        if not self.most or is_base(mixture):
            return
        self.uses[mixture] += 1
        if self.uses.total() > NOTED:
            self.uses = Counter({one: count // 2 for one, count in self.uses.items() if count > 1})

    def has(self, mixture: Mixture) -> bool:
        """Whether there is a copy of it."""
        return mixture in self._copies

    @property
    def wants_work(self) -> bool:
        """Whether `work` has something to do."""
        return self._coming is not None or self._next() is not None

    def work(self) -> None:
        """Merge one matrix. Where that fails, as for want of memory, none are merged any more."""
        try:
            self._work()
        except Exception:
            self.most, self._coming = 0, None
            log.exception("Merging failed; no more merged copies are made. Set backend.merged_copies=0.")

    def _work(self) -> None:
        if self._coming is None:
            mixture = self._next()
            if mixture is None:
                return
            if len(self._copies) == self.most:
                del self._copies[min(self._copies, key=self.uses.__getitem__)]
            self._coming = mixture, [], self.adapter.merged_weights(self._pool.state(mixture))
        mixture, weights, rest = self._coming
        units = list(self.adapter.units.values())
        _, weight = next(rest)
        layer = units[len(weights)].layer
        is_transposed = isinstance(layer, SVFLinear) and isinstance(layer.base, Conv1D)
        weights.append(weight.T if is_transposed else weight)
        if len(weights) == len(units):
            self._copies[mixture], self._coming = weights, None

    @contextmanager
    def applied(self, mixture: Mixture) -> Iterator[None]:
        """Within the block the model has the merged weights of a mixture that there is a copy of."""
        units = self.adapter.units.values()
        with restored(units, "merged_weight"):
            for unit, weight in zip(units, self._copies[mixture], strict=True):
                unit.layer.merged_weight = weight
            with self.adapter.mode.switched("merged"):
                yield

    def _next(self) -> Mixture | None:
        """The mixture that is to have a copy, and has none."""
        others = [(count, mixture) for mixture, count in self.uses.items() if mixture not in self._copies]
        if not others or not self.most:
            return None
        count, mixture = max(others, key=lambda one: one[0])
        if len(self._copies) < self.most:
            return mixture
        return mixture if count > MORE * min(self.uses[held] for held in self._copies) + 1 else None
