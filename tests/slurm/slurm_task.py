"""A task for jobs of Slurm, whose name says what happens in the middle of a step of the job's first attempt.

letters   nothing
stopped   Slurm's signal comes, and the step does not end before Slurm kills the job
told      Slurm's signal comes, and the step ends before Slurm kills the job
slow      steps take seconds, so that the time limit comes in one
endless   as stopped, and in every attempt the first step
lost      the process is gone, as when memory runs out
wrong     grading raises an error
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from t2.tasks.base import Split
from t2.tasks.form import Form
from t2.types import Example

STEP = 8  # completions of a step
FIRST_ATTEMPT = "SLURM_RESTART_COUNT" not in os.environ
BEYOND_KILLING_S = 20  # slurm.conf of scripts/slurm/up.sh kills after 5


@dataclass
class SlurmTask:
    """The more of the answer is lower-case letters, the better."""

    name: str
    stop_in: int = 3  # step, from 1 on, in which it happens
    max_new_tokens: int = 6
    form: Form = field(default_factory=lambda: Form("Reply with small letters.", "abc"))
    calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def split(self, split: Split) -> Sequence[Example]:
        numbers = {"train": range(40), "val": range(40, 44), "test": range(48, 60)}[split]
        return [Example(prompt=f"number {n}", answer="abc") for n in numbers]

    def score(self, example: Example, text: str) -> float:
        if int(example.prompt.split()[1]) < 40:  # of a training step
            self._happen()
        return sum("a" <= letter <= "z" for letter in text) / max(1, len(text))

    def chance(self, example: Example) -> Mapping[str, float]:
        return {}

    def _happen(self) -> None:
        with self.lock:
            self.calls += 1
            now = self.calls == (self.stop_in - 1) * STEP + STEP // 2
        if self.name == "slow" and FIRST_ATTEMPT:
            time.sleep(2)
        if not now and not (self.name == "endless" and self.calls == 1):
            return
        if self.name == "wrong":
            raise ValueError("this grader is broken")
        if self.name == "lost":
            os._exit(7)
        if (self.name in ("stopped", "told") and FIRST_ATTEMPT) or self.name == "endless":
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(2 if self.name == "told" else BEYOND_KILLING_S)
