"""What the systems of bench/rl_step.py have in common: the job, its grading and the meter. No model is run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measure import check_lengths, reset_peak
from models import load_task

from t2.tasks.base import Split
from t2.training.data import PromptSchedule
from t2.types import Example

SEED = 0
SYSTEMS = ("t2_hf", "t2_vllm", "trl_lora")
SCORES = ("alternate", "task")
SETTINGS = ("each", "same", "none")  # who gets those of a process that t2's scripts make: t2, all, nobody
PHASES = ("rollout", "reward", "update")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every system does, by the names of the command line; see `Grading` for `scores`."""

    model: str = "smollm2"
    task: str = "chain_sum"
    prompts: int = 8
    samples: int = 6
    new_tokens: int = 24
    steps: int = 4
    warmup: int = 1
    micro_batch_tokens: int = 1024
    scores: str = "alternate"
    settings: str = "each"
    threads: int | None = None

    @property
    def all_steps(self) -> int:
        """Warm-up included."""
        return self.warmup + self.steps


class Grading:
    """A task that computes every score and, with `alternate`, returns 1, 0, 1, 0 ... instead.

    Every completion then has an advantage. t2 leaves completions without one out of its update and TRL does not, so
    that with the task's own scores the updates would differ in size at random.
    """

    def __init__(self, job: Job) -> None:
        """Build the task from its YAML; FileNotFoundError if there is none."""
        self.task = load_task(job.task)
        self.name, self.max_new_tokens, self.form = self.task.name, self.task.max_new_tokens, self.task.form
        self.given: list[float] = []  # the task's own scores
        self._alternate = job.scores == "alternate"
        schedule = PromptSchedule(self.task.split("train"), job.prompts, SEED)
        self.examples = [example for step in range(job.all_steps) for example in schedule.at(step)]

    def split(self, split: Split) -> Sequence[Example]:
        """The task's split."""
        return self.task.split(split)

    def score(self, example: Example, text: str) -> float:
        """The task's score, or its substitute."""
        self.given.append(self.task.score(example, text))
        return float(len(self.given) % 2) if self._alternate else self.given[-1]

    def chance(self, example: Example) -> Mapping[str, float]:
        """The task's chances."""
        return self.task.chance(example)


class Meter:
    """Seconds of each step by phase (`update` is the step without rollout and reward), and memory after the warm-up.

    The peak is reset before the first timed step; memory that malloc keeps counts.
    """

    def __init__(self, warmup: int) -> None:
        """Nothing has been measured."""
        self.steps: list[dict[str, float]] = []
        self.prompts: list[tuple[int, ...]] = []  # one per completion
        self.lengths: list[int] = []  # tokens of each completion
        self.held_bytes = 0
        self._warmup, self._start = warmup, 0.0
        self._spent = {"rollout": 0.0, "reward": 0.0}

    def begin(self) -> None:
        """A step begins."""
        if len(self.steps) == self._warmup:
            self.held_bytes = reset_peak()
        self._spent = dict.fromkeys(self._spent, 0.0)
        self._start = time.perf_counter()

    def charge(self, name: str, seconds: float) -> None:
        """Charge seconds to a phase of the present step."""
        self._spent[name] += seconds

    def charging(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the seconds of its calls charged to a phase."""

        def charged(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = function(*arguments, **options)
            self.charge(name, time.perf_counter() - start)
            return found

        return charged

    def end(self) -> None:
        """The step has ended."""
        total = time.perf_counter() - self._start
        self.steps.append({"step": total} | self._spent | {"update": total - sum(self._spent.values())})

    def completed(self, prompt: Sequence[int], tokens: int) -> None:
        """Note a completion: its prompt's ids and its length."""
        self.prompts.append(tuple(prompt))
        self.lengths.append(tokens)

    def check(self, name: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Raise RuntimeError unless these prompts were completed, in this order, with `new_tokens` tokens each."""
        if self.prompts != [tuple(ids) for ids in prompts]:
            raise RuntimeError(
                f"{name} did not complete the prompts of the other systems: its times cannot be compared."
            )
        check_lengths(name, self.lengths, new_tokens)
