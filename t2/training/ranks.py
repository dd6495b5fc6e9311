"""Several processes (ranks) train one expert: each has a part of every step's prompts, and all have the same z.

    batch of B prompts -> a part each -> completions, graded       gathered: every rank has the whole rollout
    prompts with an advantage -> a part each -> gradient of z      summed in one message; clipped and stepped by each

Every rank builds the same batch, and its completions are sampled with the random numbers of
their place in the batch: the numbers are those of one process, but for the rounding of sums. Processes, their
connection and its set-up are Lightning's (`DDPStrategy`) and torch's (gloo on CPUs, nccl on GPUs).

Each holds the whole model (trainer=ddp) or a part of every block (trainer=fsdp, `t2.training.sharded`). Not done here:
evaluation of finished experts.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn

from t2.evaluation.report import Report
from t2.evaluation.scoring import Scored, complete_and_score, report_of
from t2.policy.generator import DivisibleGenerator, Generator
from t2.run.phases import Phases
from t2.run.ranks import AnotherRankFailed
from t2.tasks.base import Task
from t2.training.lockstep import HeardOfFailure, Lockstep, in_step, noticing_the_lost
from t2.types import Example, Sampling

T = TypeVar("T")
# Ranks wait this long for each other; the first one alone evaluates strategies during training. One that dies is
# noticed at once.
TIMEOUT = timedelta(hours=12)


class AdapterDDP(DDPStrategy):
    """Lightning's strategy of several processes, for a module whose trained numbers are not its own parameters.

    `DistributedDataParallel` would find nothing to wrap: `t2.training.policy_gradient` sums the gradients itself.
    """

    def __init__(self) -> None:
        """All settings are Lightning's own, but for the time that processes wait."""
        super().__init__(timeout=TIMEOUT)

    def configure_ddp(self) -> None:
        """Wrap nothing."""

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all ranks; AnotherRankFailed where one is gone."""
        with noticing_the_lost():
            super().barrier(*args, **kwargs)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which one this is."""

    rank: int = 0
    size: int = 1
    lockstep: Lockstep | None = None  # where they share one sharded model

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch.distributed; one where it is not set up."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), in_step())

    def part(self, count: int) -> range:
        """This rank's of `count` things: neighbours, whose number differs by at most one between ranks."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def exchange(self, compute: Callable[[], T], phases: Phases | None = None) -> list[T]:
        """Call `compute` on every rank, and return all results in the order of ranks, on every rank.

        `phases` is charged with the wait for other ranks, as `wait`.

        Raises:
            AnotherRankFailed: `compute` raised on another rank, or the rank is gone; what it raises here passes
                through, once the others know.
        """
        if self.size == 1:
            return [compute()]
        failure: Exception | None = None
        result: T | None = None
        heard = False
        try:
            result = compute()
        except HeardOfFailure:
            heard = True
        except Exception as error:
            if self.lockstep is not None and self.lockstep.inside:
                self.lockstep.leave(error)
            failure = error
        words = None if failure is None else str(failure) or type(failure).__name__
        told: list[Any] = [None] * self.size
        with (phases or Phases())("wait"):
            if self.lockstep is not None and not heard:
                self.lockstep.keep_up(failed=failure is not None)
            with noticing_the_lost():
                dist.all_gather_object(told, (words, result))
        if failure is not None:
            raise failure
        for number, (message, _) in enumerate(told):
            if message is not None:
                raise AnotherRankFailed(f"Process {number} (of 0 to {self.size - 1}) failed: {message}")
        return [one for _, one in told]

    def backward(self) -> AbstractContextManager[None]:
        """Within the block is a backward pass; ranks that share a sharded model have it at the same time."""
        return nullcontext() if self.lockstep is None else self.lockstep.backward()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], present: Sequence[bool]) -> None:
        """Replace each rank's gradients by their sum over all ranks, in one message of 4 bytes a number in fp32.

        `present` says which parameters have a gradient on any rank; the others have none afterwards either.
        """
        if self.size == 1:
            return
        summed = [parameter for parameter, has in zip(parameters, present, strict=True) if has]
        if not summed:
            return
        flat = torch.cat([_gradient(parameter).flatten() for parameter in summed])
        with noticing_the_lost():
            dist.all_reduce(flat)
        for parameter, part in zip(summed, torch.split(flat, [one.numel() for one in summed]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


ALONE = Ranks()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def note_sigterm(trainer: L.Trainer) -> None:
    """Have SIGTERM noted, and nothing more, where there are several ranks: they agree on it when the next step starts.

    Lightning's own handler sends a message at once. A rank that waits for another message never answers it.
    """
    if Ranks.here().size == 1:
        return

    def note(signum: int, _: FrameType | None) -> None:
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            trainer.strategy.launcher.kill(signal.Signals(signum))  # it reaches the processes that were started here
        trainer._signal_connector.received_sigterm = True

    signal.signal(signal.SIGTERM, note)  # Lightning puts back what was there before it


def complete_and_score_divided(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, workers: int, phases: Phases
) -> Scored:
    """`complete_and_score` of B examples, a part of them on each rank; all ranks get the whole.

    Raises:
        ValueError: the generator cannot sample a part of a batch as it samples the whole, or what
            `complete_and_score` refuses.
        AnotherRankFailed: see `Ranks.exchange`.
    """
    ranks = Ranks.here()
    if ranks.size == 1:
        return complete_and_score(generator, task, examples, sampling, workers=workers, phases=phases)
    part = ranks.part(len(examples))

    def own() -> Scored:
        if not isinstance(generator, DivisibleGenerator):
            raise ValueError(
                f"trainer=ddp and fsdp divide a step's prompts among processes, and {type(generator).__name__} cannot "
                "sample a part of them as it would all (it has no `for_rows`). Use generation=hf, or trainer=default."
            )
        if not part:
            return Scored((), ())
        mine = generator.for_rows(part, len(examples))
        scored = complete_and_score(mine, task, [examples[b] for b in part], sampling, workers=workers, phases=phases)
        # Images are those of the examples, which every rank has.
        without = tuple(tuple(replace(one, images=()) for one in group) for group in scored.completions)
        return Scored(without, scored.grades)

    parts = ranks.exchange(own, phases)
    groups = [group for one in parts for group in one.completions]
    completions = tuple(
        tuple(replace(one, images=example.images) for one in group)
        for example, group in zip(examples, groups, strict=True)
    )
    return Scored(completions, tuple(grades for one in parts for grades in one.grades))


def evaluate_divided(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, system: str, workers: int
) -> Report:
    """`t2.evaluation.scoring.evaluate`, a part of the examples on each rank; all ranks get the whole report.

    Raises:
        ValueError, AnotherRankFailed: as `complete_and_score_divided`.
    """
    phases = Phases()
    scored = complete_and_score_divided(generator, task, examples, sampling, workers=workers, phases=phases)
    return report_of(scored, task, examples, system=system, seconds=phases.total_seconds)
