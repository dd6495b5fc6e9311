r"""Script of a worker process that compares two expressions with math-verify; started by `t2.grading.math.worker_pool`.

Each line of the input is a JSON list, [gold] or [gold, answer]; each line of the output is `true` or `false`: whether
the gold answer parses as an expression, or whether both are equivalent. The script imports nothing of t2 (a start takes
about a second), ends with its input, and limits its own memory and time. math-verify can be interrupted by a signal
only, which only the main thread receives; hence a process of its own. Its own timeouts count wall-clock time, in which
a correct comparison fails on a busy machine. Here a request gets `BUDGET_S` of processor time, and ends shortly before
the parent's deadline (the only argument, in seconds), at which the process is killed and a new one must start.

A parsed expression is never printed, logged or sent, since formatting one may never end.
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
from sympy import Expr, Float, I, Rational, nan, oo, zoo

BUDGET_S = 2.0  # processor time of a request
WALL_SHARE = 0.75  # of the deadline
DIGITS = 40  # of numbers such as roots, of which all but ten must agree
PLACES = 12  # of decimals within expressions
TOLERANCE = Rational(1, 10**6)  # relative, to a gold answer that is a decimal; as in number.py
CPU_S = 30  # the kernel's limit of a request, for a worker that hangs in C code after its parent has ended
MEMORY_BYTES = 2 * 1024**3
# Parses the \boxed{} that `_read` puts around the text, and no number in prose.
_BOXED = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
# Loads modules and builds caches before the first request.
_WARM_UP = (
    ("x^2 - 1", "(x - 1)(x + 1)"),
    ("2x", "2"),
    ("(1, 2)", "(1, \\frac{1}{2})"),
    ("x < 1", "1 > x"),
    ("1, 2", "2"),
)


class UnreadableError(ValueError):
    """A text does not parse as an expression."""


def _read(text: str) -> list[Any]:
    found: list[Any] = parse(f"\\boxed{{{text}}}", _BOXED, extraction_mode="first_match", parsing_timeout=None)
    return found


@lru_cache(maxsize=4096)
def _read_gold(text: str) -> list[Any]:
    if not (found := _read(text)):
        raise UnreadableError  # an exception is not cached: the text may parse with more of the budget left
    return found


def readable(gold: str) -> bool:
    """Returns whether math-verify parses the text as an expression, not merely as a string."""
    try:
        return any(not isinstance(one, str) for one in _read_gold(gold))
    except UnreadableError:
        return False


def equivalent(gold: str, answer: str) -> bool:
    """Returns whether both are equivalent; not symmetric (the gold "0 <= x <= 1" accepts "[0, 1]" only).

    Numbers are compared relatively: math-verify rounds to so many places, by which every small number equals 0, and
    takes a rounding of an exact gold answer for right.
    """
    try:
        golds, answers = _with_imaginary_unit(_read_gold(gold)), _with_imaginary_unit(_read(answer))
        if golds and answers and _is_number(golds[0]) and _is_number(answers[0]):
            return _same_number(golds[0], answers[0])
        return bool(verify(golds, answers, float_rounding=PLACES, timeout_seconds=None))
    except UnreadableError:
        return False


def _with_imaginary_unit(found: list[Any]) -> list[Any]:
    """Replaces the variable i, as which math-verify reads the i of "2i"."""
    return [
        one.xreplace({symbol: I for symbol in one.free_symbols if symbol.name == "i"}) if isinstance(one, Expr) else one
        for one in found
    ]


def _is_number(found: Any) -> bool:
    return isinstance(found, Expr) and bool(found.is_number) and not found.has(oo, zoo, nan)


def _same_number(gold: Any, answer: Any) -> bool:
    is_inexact = gold.has(Float)
    if not is_inexact:  # an exact gold wants an exact answer, in which 0.5 is 1/2
        answer = answer.xreplace({one: Rational(str(one)) for one in answer.atoms(Float)})
    one, other = gold.evalf(DIGITS), answer.evalf(DIGITS)
    size = max(abs(one), abs(other))
    return bool(abs(one - other) <= size * (TOLERANCE if is_inexact else Rational(1, 10 ** (DIGITS - 10))))


def decide(request: list[str], wall_s: float) -> bool:
    """Returns the verdict on a request, False once `BUDGET_S` or `wall_s` is used up. Main thread only."""
    # math-verify catches a timeout and goes on with its next rule, so that the signals repeat until it has given up.
    signal.setitimer(signal.ITIMER_PROF, BUDGET_S, BUDGET_S / 20)
    signal.setitimer(signal.ITIMER_REAL, wall_s, wall_s / 20)
    try:
        return equivalent(*request) if len(request) == 2 else readable(*request)
    except TimeoutException:
        return False
    except TypeError:  # sympy's, of a comparison that it cannot decide: whether 3 mod 5 is above 5, unevaluated
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _expire(*_: object) -> None:
    raise TimeoutException


def limit_memory() -> None:
    """Limits the address space to `MEMORY_BYTES`, or to the hard limit if that is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def limit_cpu() -> None:
    """Limits the processor time to `CPU_S` seconds from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main(deadline_s: float) -> None:
    """Answers requests until the input ends."""
    logging.disable(logging.CRITICAL)  # math-verify logs a warning at every timeout
    for expired in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(expired, _expire)
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of a library is not a reply
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
