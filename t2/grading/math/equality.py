r"""Comparing an answer with the reference of a mathematics question: cheap rules first, then math-verify.

The cheap rules (`t2.grading.math.normal_form`, `.number`) accept "\frac14", "0.25" and "1/4" as equal; they never
evaluate, so that a tower of powers costs nothing. Where they do not decide, `t2.grading.math.comparison` takes both
apart: members of tuples, intervals, sets, lists and matrices, sides of equations, units. What is left, math-verify
(https://github.com/huggingface/Math-Verify, 0.9) compares as expressions, in processes that are killed after a
deadline. Texts longer than `MAX_CHARS` are not taken apart.

The answer must have been extracted (`t2.grading.answers.boxed`). MATH's own grader, `is_equiv` of hendrycks/math,
compares normalized texts; this one accepts other forms of the same value too, but no rounding of an exact reference.
A percent, degree or currency sign and a unit are ignored on one side only, as in `is_equiv`: "10\%" equals "10", and
"5 cm" equals "5" but not "5 km". The equality of the paper's code is another: `t2.grading.math.paper_equality`.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache

from t2.grading.math.comparison import cheaply_equal, clean
from t2.grading.math.comparison import equivalent as equivalent_parts
from t2.grading.math.normal_form import normalized
from t2.grading.math.number import number
from t2.grading.math.worker_pool import WorkerPool

__all__ = ["MAX_CHARS", "MathGrader", "cheaply_equal", "normalized"]

MAX_CHARS = 500  # of a text passed to math-verify; the longest reference of MATH has about 160
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_LETTER = re.compile(r"\\mathbb\s*\{?[A-Z]|\\[A-Za-z]+|[A-Za-z]{3,}|(?P<letter>[A-Za-z])")  # no command, no word
_NAMES = "uvwzyxtsqpnmkjhgba"


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
        one, other = clean(gold), clean(answer)
        return all(map(_is_askable, (one, other))) and equivalent_parts(one, other, self._expressions)

    def can_parse(self, gold: str) -> bool:
        """Returns whether the reference is a number or parses with math-verify; raises as `equivalent`."""
        expression = _expression(gold)
        return number(normalized(gold)) is not None or (_is_askable(expression) and self._verdict(expression))

    def close(self) -> None:
        """Ends the processes, which start again if the grader is used again."""
        with self._lock:
            if self._end_pool is not None:
                self._end_pool()
            self._pool, self._end_pool = None, None

    def _expressions(self, gold: str, answer: str) -> bool:
        expressions = _told_apart(_expression(gold), _expression(answer))
        return all(map(_is_askable, expressions)) and self._verdict(*expressions)

    def _ask(self, *request: str) -> bool:
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(self._workers, self._deadline_s)
                self._end_pool = weakref.finalize(self, self._pool.close)
            pool = self._pool
        return pool.ask(request)


def _expression(text: str) -> str:
    r"""One line without delimiters and percent signs, which math-verify does not read within a box."""
    text = re.sub(r"\\?[%$]|\\[()\[\]]", " ", text)
    return " ".join(text.split()).rstrip(" .")


def _told_apart(*texts: str) -> list[str]:
    """Renames the capital of a letter that is there in both cases: math-verify reads R as r."""
    letters = {match["letter"] for text in texts for match in _LETTER.finditer(text)} - {None}
    free = [name for name in _NAMES if name not in letters and name.upper() not in letters]
    names = dict(zip(sorted(one for one in letters if one.isupper() and one.lower() in letters), free, strict=False))
    return [_LETTER.sub(lambda match: names.get(match["letter"], match[0]), text) for text in texts]


def _is_askable(text: str) -> bool:
    depth = 0
    for brace in _BRACE.finditer(text[: MAX_CHARS + 1]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False  # it would close the \\boxed{ around it
    return depth == 0 and 0 < len(text) <= MAX_CHARS
