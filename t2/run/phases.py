"""Seconds by phase, of a run and of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
