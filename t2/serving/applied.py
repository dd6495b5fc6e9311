"""The mixtures that are being served: each row of a forward pass gets its own, and no weight is written.

`Applied` keeps the scales of the mixtures in use in the adapter, and tells it which row has which. A forward pass whose
rows have all the same mixture takes its merged weights, where there is a copy (`t2.serving.merged`). `Unmerged` lets
pass 1 apply the dispatch expert in the factored mode: to merge it takes seconds, which pays for many prompts and not
for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from t2.adaptation.two_pass import is_base
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.run.messages import check_range
from t2.serving.merged import MergedCopies


class Applied:
    """Applies a mixture to each row of a forward pass; without a pool all rows are the base model's."""

    def __init__(
        self, adapter: SVF | None, pool: ExpertPool | None, device: torch.device, merged_copies: int = 0
    ) -> None:
        """Rows are chosen on `device`; `merged_copies` is how many mixtures may have merged weights.

        Raises:
            ValueError: it is below 0.
        """
        check_range("backend.merged_copies", merged_copies, at_least=0)
        has_experts = adapter is not None and pool is not None
        self.copies = MergedCopies(adapter, pool, merged_copies) if has_experts else None  # type: ignore[arg-type]
        self._adapter, self._pool, self._device = adapter, pool, device
        self._table: list[Mixture] = []  # of which the adapter holds the scales
        self._open = ExitStack()
        self._select: Any = None

    @contextmanager
    def rows(self, mixtures: Sequence[Mixture], keep: Sequence[Mixture] = ()) -> Iterator[None]:
        """Within the block row n has mixtures[n]. The scales of `keep` stay beside theirs, for the next call."""
        if self._adapter is None or self._pool is None:
            yield
            return
        if all(map(is_base, mixtures)):
            with self._adapter.disabled():
                yield
            return
        if self.copies is not None and len(set(mixtures)) == 1 and self.copies.has(mixtures[0]):
            with self.copies.applied(mixtures[0]):
                yield
            return
        if not set(mixtures) <= set(self._table):
            self._hold(list(dict.fromkeys([*mixtures, *keep])))
        number = {mixture: index for index, mixture in enumerate(self._table)}
        self._select(torch.tensor([number[mixture] for mixture in mixtures], device=self._device))
        yield

    def close(self) -> None:
        """Give the adapter its own mode back."""
        self._open.close()
        self._table = []

    def _hold(self, mixtures: list[Mixture]) -> None:
        assert self._adapter is not None, "checked by rows()"
        assert self._pool is not None, "checked by rows()"
        self.close()
        self._select = self._open.enter_context(self._adapter.per_example(self._pool.scales(mixtures)))
        self._table = mixtures


class Unmerged(SVF):
    """The adapter that strategies see: as the one it is made of, but a given state is loaded rather than merged."""

    def __init__(self, svf: SVF) -> None:
        """Share everything with `svf`, whose own z the server has no other use for."""
        vars(self).update(vars(svf))
        self._loaded: Mapping[str, Tensor] | None = None

    @contextmanager
    def merged(self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the block the model has `state`, or the present z, in the factored mode, and no LoRA of a request."""
        own, changes = self.low_rank.of_state(state, self.sizes)
        if own is not None and state is not self._loaded:
            self.load(own)
            self._loaded = state
        with self.low_rank.applied(changes, self.layers), self.mode.switched("factored"):
            yield
