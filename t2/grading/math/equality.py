r"""Whether an answer to a mathematics question means the same as the reference: cheap rules first, math-verify after.

Cheap rules (`normalized`, `cheaply_equal`) see "\frac14", "0.25" and "1/4" as one, and "(1,2)" and "1,2" as two; they
never compute, so a tower of powers costs them nothing. Only where they do not decide, math-verify
(https://github.com/huggingface/Math-Verify, 0.9) compares both as expressions, in processes that are killed after a
deadline. Texts longer than `MAX_CHARS` are not given to it.

It judges an answer that has been extracted (`t2.grading.answers.boxed`); it does not look for one in prose. Percent,
degree and currency signs are left out, as is usual for MATH: "10\%" is "10". The equality of the paper's code is
another: `t2.grading.math.paper_equality`.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from t2.grading.math.worker_pool import WorkerPool

MAX_CHARS = 500  # of a text that is read as an expression; the longest reference of MATH has about 160
MAX_NUMBER_CHARS = 100

# In this order. A command becomes a space rather than nothing where its neighbors could grow together ("3^\circ 4").
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
        (r"\\[()\[\]]", " "),  # the signs around a formula, not its parentheses
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
    """The text without what does not change its meaning: spacing, font, delimiters, units' signs, a final period."""
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).rstrip(" .")
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    return re.sub(r",(?=.)", ", ", _LOOSE_SPACE.sub("", text))  # a list keeps its space: "1, 234" is not 1,234


def cheaply_equal(a: str, b: str) -> bool:
    """Whether both are the same after `normalized`, or the same plain number; symmetric, and never costly."""
    one, other = normalized(a), normalized(b)
    if one and one == other:
        return True
    x, y = _number(one), _number(other)
    return x is not None and x == y


class MathGrader:
    """Compares answers with references; used by any number of threads, ended by `close` or with the program."""

    def __init__(self, deadline_s: float = 5.0, workers: int = 2) -> None:
        """Nothing starts before the first answer that the cheap rules do not decide.

        `deadline_s` is the longest that one answer takes a worker. A machine so busy that an honest comparison takes
        as long gets it wrong.

        Raises:
            ValueError: no time or no worker is allowed.
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
        # Samples of one prompt are often equal, and a hostile one must not cost its deadline each time.
        self._verdict = lru_cache(maxsize=8192)(self._ask)

    def equivalent(self, gold: str, answer: str) -> bool:
        """Whether the answer means what the reference means; no text makes it raise or wait beyond the deadline.

        Raises:
            RuntimeError: the processes that compare expressions do not start.
        """
        if cheaply_equal(gold, answer):
            return True
        if _is_exact(normalized(gold)) and _is_exact(normalized(answer)):
            return False
        expressions = _expression(gold), _expression(answer)
        return all(map(_is_askable, expressions)) and self._verdict(*expressions)

    def can_parse(self, gold: str) -> bool:
        """Whether the reference is a number or an expression that math-verify reads; Raises as `equivalent`."""
        expression = _expression(gold)
        return _number(normalized(gold)) is not None or (_is_askable(expression) and self._verdict(expression))

    def close(self) -> None:
        """End the processes. They start again if the grader is used again."""
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
            return False  # it would leave its box
    return depth == 0 and 0 < len(text) <= MAX_CHARS
