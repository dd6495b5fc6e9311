"""What the systems of bench/rl_step.py have in common: the job, its grading and the meter. No model is run here."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf
from record import ROOT

from t2.tasks.base import Split, Task
from t2.training.data import PromptSchedule
from t2.types import Example

SEED = 0
SCORES = ("alternate", "task")
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
    threads: int | None = None

    @property
    def all_steps(self) -> int:
        """Warm-up included."""
        return self.warmup + self.steps


class Grading:
    """A task that is asked for every score and, with `alternate`, hands on 1, 0, 1, 0 ... instead.

    Every answer then has an advantage. t2 leaves answers without one out of its update and TRL does not, so that with
    the task's own scores the updates would differ in size, by luck.
    """

    def __init__(self, job: Job) -> None:
        """Build the task from its YAML.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        self.task: Task = instantiate(OmegaConf.load(ROOT / "conf" / "task" / f"{job.task}.yaml"))
        self.name, self.max_new_tokens = self.task.name, self.task.max_new_tokens
        self.given: list[float] = []  # the task's own scores
        self._alternate = job.scores == "alternate"
        schedule = PromptSchedule(self.task.split("train"), job.prompts, SEED)
        self.examples = [example for step in range(job.all_steps) for example in schedule.at(step)]

    def split(self, split: Split) -> Sequence[Example]:
        """The task's split."""
        return self.task.split(split)

    def score(self, example: Example, text: str) -> float:
        """The task's score, or what stands for it."""
        self.given.append(self.task.score(example, text))
        return float(len(self.given) % 2) if self._alternate else self.given[-1]


class Meter:
    """Seconds of each step by phase (`update` is what rollout and reward leave), and memory after the warm-up.

    The peak is the kernel's VmHWM, set back before the first timed step; memory that malloc keeps counts.
    """

    def __init__(self, warmup: int) -> None:
        """Nothing has been measured."""
        self.steps: list[dict[str, float]] = []
        self.prompts: list[tuple[int, ...]] = []  # one per answer
        self.lengths: list[int] = []  # tokens of each answer
        self.held_bytes = 0
        self._warmup, self._start = warmup, 0.0
        self._spent = {"rollout": 0.0, "reward": 0.0}

    def begin(self) -> None:
        """A step begins."""
        if len(self.steps) == self._warmup:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS, see proc(5)
            self.held_bytes = resident("VmRSS")
        self._spent = dict.fromkeys(self._spent, 0.0)
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the block to a phase of the present step."""
        start = time.perf_counter()
        yield
        self.charge(name, time.perf_counter() - start)

    def charge(self, name: str, seconds: float) -> None:
        """Charge seconds to a phase of the present step."""
        self._spent[name] += seconds

    def end(self) -> None:
        """The step has ended."""
        total = time.perf_counter() - self._start
        self.steps.append({"step": total} | self._spent | {"update": total - sum(self._spent.values())})

    def answered(self, prompt: Sequence[int], tokens: int) -> None:
        """Note an answer: its prompt's ids and its length."""
        self.prompts.append(tuple(prompt))
        self.lengths.append(tokens)


def resident(key: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
