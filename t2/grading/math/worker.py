r"""The process in which math-verify compares two expressions; `t2.grading.math.worker_pool` starts it and talks to it.

Each line of its input is a JSON list, [gold] or [gold, answer]; each line of its output is `true` or `false`: whether
an expression can be read in the gold, or whether both mean the same. It runs as a script, imports nothing of t2 (a
start takes about a second), ends with its input, and limits its own memory and time. Only a signal can stop
math-verify, and only the main thread receives one: hence a process of its own. Its own timeouts count seconds on the
wall, in which an honest comparison fails on a busy machine. Here a request gets `BUDGET_S` of processor time, and ends
shortly before the parent's deadline (the only argument, in seconds): that kills, and a new process costs a start.

A parsed value is never printed, logged or sent: writing one out may take for ever.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

BUDGET_S = 2.0  # of processor time for a request
WALL_SHARE = 0.75  # of the deadline
CPU_S = 30  # the kernel's limit for it; ends a worker that hangs in C code and has lost the process that would kill it
MEMORY_BYTES = 2 * 1024**3
# Only what stands in the box that `_read` puts around the text: no number picked out of prose.
_BOXED = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
# Loads and builds what the first comparisons would wait for.
_WARM_UP = (
    ("x^2 - 1", "(x - 1)(x + 1)"),
    ("2x", "2"),
    ("(1, 2)", "(1, \\frac{1}{2})"),
    ("x < 1", "1 > x"),
    ("1, 2", "2"),
)


class UnreadableError(ValueError):
    """No expression can be read in a text."""


def _read(text: str) -> list[Any]:
    found: list[Any] = parse(f"\\boxed{{{text}}}", _BOXED, extraction_mode="first_match", parsing_timeout=None)
    return found


@lru_cache(maxsize=4096)
def _read_gold(text: str) -> list[Any]:
    if not (found := _read(text)):
        raise UnreadableError  # raised, so that it is not remembered: it may be readable with more of the budget
    return found


def readable(gold: str) -> bool:
    """Whether math-verify reads an expression, not merely a string, in the text."""
    try:
        return any(not isinstance(one, str) for one in _read_gold(gold))
    except UnreadableError:
        return False


def equivalent(gold: str, answer: str) -> bool:
    """Whether both mean the same; order matters ("x = 5" may answer 5 where the gold is "5")."""
    try:
        return bool(verify(_read_gold(gold), _read(answer), timeout_seconds=None))
    except UnreadableError:
        return False


def decide(request: list[str], wall_s: float) -> bool:
    """The verdict on a request, False once `BUDGET_S` or the time on the wall is spent. Main thread only."""
    # math-verify catches its timeout and tries the next thing: the signals come again until all has been given up.
    signal.setitimer(signal.ITIMER_PROF, BUDGET_S, BUDGET_S / 20)
    signal.setitimer(signal.ITIMER_REAL, wall_s, wall_s / 20)
    try:
        return equivalent(*request) if len(request) == 2 else readable(*request)
    except TimeoutException:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _expire(*_: object) -> None:
    raise TimeoutException


def limit_memory() -> None:
    """No more than `MEMORY_BYTES` of address space, and less where less is allowed already."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def limit_cpu() -> None:
    """`CPU_S` more seconds of processor time from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main(deadline_s: float) -> None:
    """Answer requests until the input ends."""
    logging.disable(logging.CRITICAL)  # math-verify warns of every timeout
    for expired in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(expired, _expire)
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no reply
    limit_memory()
    for gold, answer in _WARM_UP:
        equivalent(gold, answer)
    os.write(replies, b"true\n")  # ready
    for line in sys.stdin:
        request = json.loads(line)
        limit_cpu()
        os.write(replies, b"true\n" if decide(request, WALL_SHARE * deadline_s) else b"false\n")


if __name__ == "__main__":
    main(float(sys.argv[1]))
