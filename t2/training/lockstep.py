"""Ranks that share one sharded model compute in step: each forward pass and each backward pass is everyone's.

A block is put together by a message that all ranks take part in (`t2.training.sharded`), so a rank that has completed
its prompts cannot just wait for the others. Before each pass every rank says in one message of a number each what it
is about to do:

    rank 0   forward   forward   forward    forward   done
    rank 1   forward   forward   done (*)   done (*)  done       (*) a pass over one token, for the others' sake

Backward passes have to be the same number on every rank (`t2.training.policy_gradient` fills up). A rank whose own work
failed says so instead, and all stop. Not done here: what else ranks tell each other (`t2.training.ranks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from t2.models.language_model import LanguageModel
from t2.run.ranks import AnotherRankFailed


class Turn(IntEnum):
    """What a rank is about to do."""

    DONE = 0
    FORWARD = 1
    BACKWARD = 2
    FAILED = 3


class HeardOfFailure(AnotherRankFailed):
    """Another rank has failed in the middle of its work, and has yet to say why."""


@contextmanager
def noticing_the_lost() -> Iterator[None]:
    """Raise AnotherRankFailed where a message cannot be sent or does not come."""
    try:
        yield
    except RuntimeError as error:  # gloo's; nccl's DistBackendError is one
        raise AnotherRankFailed(
            "Another process of this run has ended; its message stands above. Where there is none, it was killed, for "
            f"which the most frequent reason is too little memory. ({str(error).splitlines()[0]})"
        ) from error


class Lockstep:
    """The passes of a sharded model, each announced before it begins."""

    def __init__(self, lm: LanguageModel, group: dist.ProcessGroup) -> None:
        """Watch the forward passes of `lm`, whose blocks are sharded already among the ranks of `group`."""
        self._lm, self._group = lm, group
        self._root: Any = lm.model.base_model  # an FSDPModule
        self._for_others = False
        self.inside = False  # a pass, which cannot be left without the others
        self._root.register_forward_pre_hook(self._before, prepend=True)  # before FSDP's own
        self._root.register_forward_hook(self._after)

    def _before(self, *_: Any) -> None:
        if self.inside:  # the pass before was broken off on every rank, by an error that somebody has caught
            self._root.reset_iter_state()
            self.inside = False
        if not self._for_others:
            self._agree(Turn.FORWARD)
        self.inside = True

    def _after(self, *_: Any) -> None:
        self.inside = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Within the block is a backward pass; every rank has to have one now.

        Raises:
            AnotherRankFailed: one has failed instead.
        """
        self._agree(Turn.BACKWARD)
        self.inside = True
        yield
        self.inside = False

    def leave(self, error: Exception) -> NoReturn:
        """Raise an error that came in the middle of a pass, where the others wait: they notice that this rank ends.

        Where it is another rank that has ended, it says so.
        """
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            with noticing_the_lost():
                raise error
        raise error

    def keep_up(self, *, failed: bool) -> None:
        """Take part in the others' passes until all are done; `failed` makes them stop.

        Raises:
            AnotherRankFailed: a rank is gone.
        """
        while True:
            turns = self._agree(Turn.FAILED if failed else Turn.DONE)
            if Turn.FAILED in turns or Turn.FORWARD not in turns:
                assert Turn.BACKWARD not in turns or Turn.FAILED in turns, "every rank has the same backward passes"
                return
            self._pass_for_others()

    @torch.no_grad()
    def _pass_for_others(self) -> None:
        token = torch.full((1, 1), self._lm.pad_id, device=self._lm.device)
        self._for_others = True
        try:
            with noticing_the_lost():
                self._lm.hidden_states(token, torch.ones_like(token), torch.zeros_like(token))
        finally:
            self._for_others = False

    def _agree(self, turn: Turn) -> set[Turn]:
        """Tell the others this rank's turn, and return all turns.

        Raises:
            HeardOfFailure: this rank has work, and another has failed.
        """
        mine = torch.tensor([turn], dtype=torch.int32, device=self._lm.device)
        told = [torch.zeros_like(mine) for _ in range(dist.get_world_size(self._group))]
        with noticing_the_lost():
            dist.all_gather(told, mine, self._group)
        turns = {Turn(number) for number in torch.cat(told).tolist()}
        if Turn.FAILED in turns and turn in (Turn.FORWARD, Turn.BACKWARD):
            raise HeardOfFailure("Another process of this run has failed; its message stands above.")
        return turns


_present: list[Lockstep] = []  # one, while the model of this process's run is sharded


def in_step() -> Lockstep | None:
    """That of the run of this process; None where its model is whole."""
    return _present[0] if _present else None


def keep_in_step(lockstep: Lockstep | None) -> None:
    """Have ranks of this process move by `lockstep` from now on; None: by themselves."""
    _present[:] = [] if lockstep is None else [lockstep]
