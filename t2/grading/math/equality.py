r"""Comparing an answer with the reference of a mathematics question: cheap rules first, then math-verify.

The cheap rules (`normalized`, `cheaply_equal`) accept "\frac14", "0.25" and "1/4" as equal, and "(1,2)" and "1,2" as
different; they never evaluate, so that a tower of powers costs nothing. Where they do not decide, math-verify
(https://github.com/huggingface/Math-Verify, 0.9) compares both as expressions, in processes that are killed after a
deadline. Texts longer than `MAX_CHARS` are not passed to it.

The answer must have been extracted (`t2.grading.answers.boxed`). Percent, degree and currency signs are ignored, as is
usual for MATH: "10\%" equals "10".
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from t2.grading.math.worker_pool import WorkerPool

MAX_CHARS = 500  # of a text passed to math-verify; the longest reference of MATH has about 160
MAX_NUMBER_CHARS = 100

# Applied in this order. A command becomes a space where its neighbors could otherwise be joined ("3^\circ 4").
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"−", "-"),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[cdt]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}|,\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°|\\degrees?(?![A-Za-z])", " "),
        (r"\\?[%$]", " "),
        (r"\\[()\[\]]", " "),  # delimiters of a formula, not its parentheses
        (r"\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\(?:text(?:rm|bf|it|normal)?|mbox|mathrm)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(frac|sqrt)\s*([0-9])", r"\\\1{\2}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
    )
)
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_LOOSE_SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")  # "1 2" is not "12", nor "\in t" "\int"
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?P<plain>{_DECIMAL})(?:/(?P<divisor>{_DECIMAL}))?)"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def normalized(text: str) -> str:
    """Removes what does not change the meaning: spacing, font, delimiters, signs of units, a final period."""
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).rstrip(" .")
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    return re.sub(r",(?=.)", ", ", _LOOSE_SPACE.sub("", text))  # lists keep their spaces: "1, 234" is not 1,234


def cheaply_equal(a: str, b: str) -> bool:
    """Returns whether both have the same normalized text or are the same number; symmetric, in linear time."""
    one, other = normalized(a), normalized(b)
    if one and one == other:
        return True
    x, y = _number(one), _number(other)
    return x is not None and x == y


class MathGrader:
    """Compares answers with references; thread-safe. Its processes end with `close` or with the program."""

    def __init__(self, deadline_s: float = 5.0, workers: int = 2) -> None:
        """Configures the processes, which start at the first answer that the cheap rules do not decide.

        Args:
            deadline_s: seconds after which a comparison is given up and counts as unequal, also on a busy machine.
            workers: number of processes.

        Raises:
            ValueError: `deadline_s` is not above 0, or `workers` is below 1.
        """
        if not deadline_s > 0 or workers < 1:
            raise ValueError(
                f"MathGrader got deadline_s={deadline_s} and workers={workers}; allowed: more than 0 s, 1 or more "
                "workers. The defaults, 5 s and 2, suit most machines."
            )
        self._deadline_s, self._workers = deadline_s, workers
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None
        self._end_pool: Callable[[], object] | None = None
        # Samples of one prompt are often equal, and an adversarial one must not cost its deadline each time.
        self._verdict = lru_cache(maxsize=8192)(self._ask)

    def equivalent(self, gold: str, answer: str) -> bool:
        """Returns whether the answer is equivalent to the reference, within the deadline whatever the text.

        Raises:
            RuntimeError: the processes do not start.
        """
        if cheaply_equal(gold, answer):
            return True
        if _is_exact(normalized(gold)) and _is_exact(normalized(answer)):
            return False
        expressions = _expression(gold), _expression(answer)
        return all(map(_is_askable, expressions)) and self._verdict(*expressions)

    def can_parse(self, gold: str) -> bool:
        """Returns whether the reference is a number or parses with math-verify; raises as `equivalent`."""
        expression = _expression(gold)
        return _number(normalized(gold)) is not None or (_is_askable(expression) and self._verdict(expression))

    def close(self) -> None:
        """Ends the processes, which start again if the grader is used again."""
        with self._lock:
            if self._end_pool is not None:
                self._end_pool()
            self._pool, self._end_pool = None, None

    def _ask(self, *request: str) -> bool:
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(self._workers, self._deadline_s)
                self._end_pool = weakref.finalize(self, self._pool.close)
            pool = self._pool
        return pool.ask(request)


def _number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    top, bottom = Fraction(match["top"] or match["plain"]), Fraction(match["bottom"] or match["divisor"] or 1)
    if bottom == 0:
        return None
    return -top / bottom if match["sign"] == "-" else top / bottom


def _is_exact(text: str) -> bool:
    return "." not in text and _number(text) is not None  # a decimal may be a rounded fraction


def _expression(text: str) -> str:
    r"""One line without delimiters and percent signs, which math-verify does not read within a box."""
    text = re.sub(r"\\?[%$]|\\[()\[\]]", " ", text)
    return " ".join(text.split()).rstrip(" .")


def _is_askable(text: str) -> bool:
    depth = 0
    for brace in _BRACE.finditer(text[: MAX_CHARS + 1]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False  # it would close the \\boxed{ around it
    return depth == 0 and 0 < len(text) <= MAX_CHARS
