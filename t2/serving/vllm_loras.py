"""The mixtures that a vLLM server has, each as a LoRA under a name of its own.

    mixture --> state z' --> LoRA of at most `rank` (`t2.experts.export_lora`) --> FOLDER/NAME --> loaded as NAME

NAME holds a hash of z', this process and a number, so that a name never means two things: vLLM reuses what it cached
under a name. The pool's experts are loaded at the start and stay; of other mixtures a bounded number, of which the one
that was used longest ago goes. A change of a higher rank than `rank` loses something, which Eckart and Young tell
exactly: it is logged, and where it is more than `max_error`, refused.

Not done here: requests to the server (`t2.serving.vllm_api`), pools with LoRAs of others, stacks of MoE experts.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from t2.adaptation.two_pass import is_base
from t2.adapters.svf import SVF
from t2.experts.export_lora import Truncated, export_lora, total_error, truncate
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.serving.vllm_api import VLLMAPI
from t2.serving.vllm_limits import Limits, Refused

log = logging.getLogger(__name__)


@dataclass
class Held:
    """A mixture that the server has, as a LoRA, or as the base (None), which it may be within rounding.

    One that is pinned stays.
    """

    name: str | None
    folder: Path
    pinned: bool


@dataclass
class LoRAs:
    """Holds mixtures on a server; all of it in the loop of one thread, but `plan`."""

    lm: LanguageModel
    adapter: SVF
    pool: ExpertPool
    folder: Path
    limits: Limits
    _held: dict[Mixture, Held] = field(default_factory=dict)  # the one used last at the end
    _users: Counter[Mixture] = field(default_factory=Counter)  # answers that are made with it, or wait for it
    _coming: dict[Mixture, asyncio.Future[None]] = field(default_factory=dict)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)  # a mixture has a user less
    _tag: str = field(default_factory=lambda: secrets.token_hex(3))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Raise ValueError for a pool whose mixtures are no LoRAs of the adapter's matrices."""
        if self.pool.loras:
            raise ValueError(
                f"backend=vllm serves mixtures of SVF experts, and {', '.join(self.pool.loras)} in the pool are LoRAs. "
                "Leave them out, or use backend=hf."
            )

    @property
    def experts(self) -> Iterator[tuple[str, Mixture]]:
        """Each domain with its expert alone."""
        for domain in self.pool.domains:
            yield domain, Mixture.of(*(float(one == domain) for one in self.pool.domains))

    def plan(self, mixture: Mixture) -> tuple[dict[str, Tensor], list[Truncated]]:
        """The state of a mixture and what a LoRA keeps of it.

        Raises:
            Refused: it leaves out more than `max_error`.
            ValueError: the model has stacks of experts.
        """
        state = self.pool.state(mixture)
        kept = truncate(self.adapter, state, self._rank)
        error = total_error(kept)
        if error > self.limits.max_error:
            needed = max(one.rank for one in truncate(self.adapter, state, None))
            raise Refused(
                f"The mixture {self._words(mixture)} changes up to {needed} singular values of a matrix, and a LoRA of "
                f"rank {self.limits.rank} leaves out {error:.3f} of the change (backend.max_error="
                f"{self.limits.max_error}). Raise backend.rank or backend.max_error, or use backend=hf."
            )
        return state, kept

    def check(self) -> None:
        """Log what the LoRA of each expert leaves out.

        Raises:
            ValueError: as for `plan`.
        """
        for domain, mixture in self.experts:
            if self._is_base(mixture):
                log.info("%s: it learned nothing, and is served as the base", domain)
                continue
            _, kept = self.plan(mixture)
            error, rank = total_error(kept), max(one.rank for one in kept)
            loses = f"leaves out {error:.2%} of the change (Frobenius norm)" if error else "exact"
            log.info("%s: a LoRA of rank %d, %s", domain, rank, loses)

    async def load_experts(self, api: VLLMAPI) -> None:
        """Have the server hold every expert, for good.

        Raises:
            Unavailable: it refuses one.
        """
        for _, mixture in self.experts:
            await self._add(api, mixture, pinned=True)

    @asynccontextmanager
    async def holding(self, api: VLLMAPI, mixture: Mixture) -> AsyncIterator[str | None]:
        """Within the block the server has the LoRA of this name; None: it is the base.

        Raises:
            Refused: the LoRA would leave out too much.
            Unavailable: the server refuses it.
            OSError: the disk is full.
        """
        if is_base(mixture):
            yield None
            return
        self._users[mixture] += 1  # from now on, so that none that has just come goes for another one
        try:
            if mixture not in self._held:
                if mixture not in self._coming:
                    coming = self._coming[mixture] = asyncio.ensure_future(self._bring(api, mixture))
                    coming.add_done_callback(partial(self._has_come, mixture))
                await asyncio.shield(self._coming[mixture])  # others may wait for it where this request ends
            held = self._held[mixture] = self._held.pop(mixture)
            yield held.name
        finally:
            self._users[mixture] -= 1
            self._users += Counter()  # without those of no user
            self._freed.set()

    async def close(self, api: VLLMAPI | None) -> None:
        """Delete the files, and have the server forget them; None: there is no server any more.

        Raises:
            Unavailable: it does not.
        """
        for coming in self._coming.values():
            coming.cancel()
        try:
            for held in self._held.values() if api is not None else ():
                assert api is not None, "checked above"
                if held.name is not None:
                    await api.unload(held.name)
        finally:
            for held in self._held.values():  # others of the folder may be another server's
                if held.name is not None:
                    shutil.rmtree(held.folder, ignore_errors=True)
            self._held.clear()
            with suppress(OSError):  # it is not empty, or not there
                self.folder.rmdir()

    async def _bring(self, api: VLLMAPI, mixture: Mixture) -> None:
        """Hold one mixture more, once there is a place."""
        async with self._one_at_a_time:
            while True:
                self._freed.clear()
                if await self._has_place(api):
                    break
                await self._freed.wait()
            await self._add(api, mixture)

    def _has_come(self, mixture: Mixture, coming: asyncio.Future[None]) -> None:
        del self._coming[mixture]
        if not coming.cancelled():
            coming.exception()  # taken note of, also where no request waits any longer

    async def _has_place(self, api: VLLMAPI) -> bool:
        """Whether one more may be held; the one that was used longest ago, and is not in use, goes for it."""
        others = [mixture for mixture, held in self._held.items() if not held.pinned]
        if len(others) < self.limits.mixtures:
            return True
        for mixture in others:
            if not self._users[mixture]:
                await self._remove(api, mixture)
                return True
        return False

    async def _add(self, api: VLLMAPI, mixture: Mixture, *, pinned: bool = False) -> None:
        if self._is_base(mixture):
            self._held[mixture] = Held(None, self.folder, pinned)
            return
        state, kept = await asyncio.to_thread(self.plan, mixture)
        name = f"t2-{_digest(state, self.limits.rank)}-{self._tag}-{next(self._numbers)}"
        folder = self.folder / name
        applied = {"mixture": self._words(mixture)}
        await asyncio.to_thread(export_lora, self.lm, self.adapter, state, folder, truncated=kept, applied=applied)
        try:
            await api.load(name, str(folder.resolve()))
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._held[mixture] = Held(name, folder, pinned)
        log.info("vLLM has %s as %s, of rank %d, which leaves out %.2g of the change.", self._words(mixture), name,
                 max(one.rank for one in kept), total_error(kept))  # fmt: skip

    async def _remove(self, api: VLLMAPI, mixture: Mixture) -> None:
        held = self._held.pop(mixture)
        if held.name is None:
            return
        try:
            await api.unload(held.name)
        finally:
            shutil.rmtree(held.folder, ignore_errors=True)

    def _is_base(self, mixture: Mixture) -> bool:
        return all(bool((z == 1).all()) for z in self.pool.state(mixture).values())

    @property
    def _rank(self) -> int:
        return min(self.limits.rank, max(self.adapter.sizes.values()))

    def _words(self, mixture: Mixture) -> str:
        weights = zip(self.pool.domains, mixture.means, strict=True)
        return "{" + ", ".join(f"{domain}: {weight:g}" for domain, weight in weights if weight) + "}"


def _digest(state: Mapping[str, Tensor], rank: int) -> str:
    """Of the weights that a state makes, 16 hex digits."""
    found = hashlib.sha256(str(rank).encode())
    for module, z in sorted(state.items()):
        found.update(module.encode())
        found.update(z.contiguous().numpy().data)
    return found.hexdigest()[:16]
