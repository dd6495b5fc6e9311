"""Seconds by phase, of a run and of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ELAPSED = "elapsed"
_charged_s = 0.0


def charge_seconds(seconds: float) -> None:
    """Count seconds into all phases that are open, of something that is taken from where it was kept."""
    global _charged_s
    _charged_s += seconds


def charged_clock() -> float:
    """`time.perf_counter`, further by all seconds that were charged."""
    return time.perf_counter() + _charged_s


class Phases:
    """Seconds spent by phase: of the whole run and of the present step."""

    def __init__(self) -> None:
        """Start at zero."""
        self.total_seconds: defaultdict[str, float] = defaultdict(float)
        self.step_seconds: defaultdict[str, float] = defaultdict(float)
        self.earlier_s = 0.0  # until its checkpoint, of the run that this one goes on with
        self.start_s = time.perf_counter()  # of what `elapsed_s` counts; earlier where a command began before

    def elapsed_s(self) -> float:
        """All seconds until now, of the earlier parts of the run too."""
        return self.earlier_s + time.perf_counter() - self.start_s

    def state_dict(self) -> dict[str, float]:
        """The seconds of the run by phase, and all of them until now."""
        return {**self.total_seconds, ELAPSED: self.elapsed_s()}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """The inverse of `state_dict`; that of an older t2 has the phases alone."""
        self.total_seconds.update({phase: spent for phase, spent in state_dict.items() if phase != ELAPSED})
        self.earlier_s = state_dict.get(ELAPSED, 0.0)

    def start_step(self) -> None:
        """Begin a new step's account."""
        self.step_seconds.clear()

    def add(self, seconds: Mapping[str, float]) -> None:
        """Charge seconds that were measured elsewhere."""
        for phase, spent in seconds.items():
            self.total_seconds[phase] += spent

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Charge the block's seconds to `phase`."""
        start = charged_clock()
        try:
            yield
        finally:
            spent = charged_clock() - start
            self.total_seconds[phase] += spent
            self.step_seconds[phase] += spent
