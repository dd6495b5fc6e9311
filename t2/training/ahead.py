"""Completions of a step, sampled while the updates before it run: at most `max_staleness` updates of z behind.

    k = 1     trainer    | update 0      | update 1      | update 2      |
              generator  | rollout 0 | rollout 1: z_0 | rollout 2: z_1 | rollout 3: z_2

Step s is sampled under the z that s - k updates have made (the first steps under that of the start), whatever is
quicker: which z sampled what does not depend on time, so two runs are alike, and checkpoints hold the z of steps that
are sampled already, so a resumed run goes on with the same tokens. The policy has moved meanwhile, hence importance
weights (`objective.importance_cap`). The generator must not use the trainer's model.

Not done here: sampling and grading themselves, several processes that train (their messages would cross).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from t2.evaluation.scoring import Scored
from t2.policy.generator import ApartGenerator, Generator
from t2.run.phases import Phases
from t2.tasks.base import Task
from t2.training.es import PopulationObjective
from t2.training.objectives import Objective
from t2.training.ranks import Ranks, complete_and_score_divided
from t2.types import Example, Sampling

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sampled:
    """Graded completions of a step, and the seconds that they took by phase."""

    scored: Scored
    seconds: Mapping[str, float]


def sync_seconds_of(generator: Generator) -> float:
    """The seconds that a generator has spent so far on bringing weights to where it generates."""
    return generator.sync_seconds if isinstance(generator, ApartGenerator) else 0.0


class Ahead:
    """Samples steps ahead in a thread, in their order.

    Args:
        generator: whose model is not the trainer's.
        sample: completes and grades the prompts of a step with a generator; None where there is no such step.
        state: z as it is now.
    """

    def __init__(
        self,
        generator: ApartGenerator,
        sample: Callable[[Generator, int], Sampled | None],
        state: Callable[[], State],
    ) -> None:
        """Start nothing yet; a resumed run sets `states` to those of its checkpoint."""
        self.generator, self.sample, self.state = generator, sample, state
        self.states: dict[int, dict[str, Tensor]] = {}  # step -> the z that samples it, until it is trained on
        self._running: dict[int, Future[Sampled | None]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")

    def take(self, step: int, phases: Phases) -> Sampled:
        """Have the steps up to `step` + k sampled, and return this one's completions; called once z has its value.

        Charges `phases` with the seconds of the wait, as `rollout_wait`.

        Raises:
            ValueError: several processes train; or what `sample` raised.
        """
        if Ranks.here().size > 1:
            raise ValueError(
                f"generation.max_staleness is {self.generator.max_staleness}, and several processes train: messages of "
                "both would cross. Use trainer=default, or generation.max_staleness=0."
            )
        for coming in range(step, step + self.generator.max_staleness + 1):
            if coming not in self.states:
                self.states[coming] = {name: z.clone() for name, z in self.state().items()}
            if coming not in self._running:
                generator = self.generator.with_state(self.states[coming])
                self._running[coming] = self._thread.submit(self.sample, generator, coming)
        with phases("rollout_wait"):
            done = self._running.pop(step).result()
        assert done is not None, f"step {step} is trained on and was not sampled"
        del self.states[step]
        return done

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._thread.shutdown(cancel_futures=True)


def ahead_of(
    generator: Generator,
    objective: Objective | PopulationObjective,
    sample: Callable[[Generator, int], Sampled | None],
    state: Callable[[], State],
) -> Ahead | None:
    """What samples ahead where the generator allows for a staleness above 0.

    Raises:
        ValueError: the objective has no weights for completions of an older z.
    """
    if not isinstance(generator, ApartGenerator) or not generator.max_staleness:
        return None
    k, name = generator.max_staleness, type(objective).__name__
    if isinstance(objective, PopulationObjective) or not objective.on_policy:
        raise ValueError(f"generation.max_staleness is {k}, and objective {name} cannot use it. Set it to 0.")
    if getattr(objective, "importance_cap", None) is None:
        raise ValueError(
            f"generation.max_staleness is {k}: completions then come from an older z, and {name} takes them for its "
            "own. Set objective.importance_cap, such as 2, which weighs each token by min(p / p_sampling, cap), or "
            "generation.max_staleness=0."
        )
    return Ahead(generator, sample, state)


def sampled(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, workers: int, phases: Phases
) -> Sampled:
    """`complete_and_score_divided` with the seconds that it took: those of `phases`, and of bringing weights over."""
    before = sync_seconds_of(generator)
    scored = complete_and_score_divided(generator, task, examples, sampling, workers=workers, phases=phases)
    seconds = dict(phases.step_seconds)
    if isinstance(generator, ApartGenerator):
        seconds["weight_sync"] = sync_seconds_of(generator) - before
    return Sampled(scored, seconds)
