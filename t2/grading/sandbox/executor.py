"""Whether a program that a model wrote passes its tests: run in one sandbox, judged in another.

Two processes per sample, in two sandboxes (`isolation`). The candidate (`candidate`) runs the program and knows no
test; the judge (`judge`) runs the test and never the program. So neither the code of a model nor that of a data set is
ever run as the user who runs t2, except where `allow_unsafe` lets it. Arguments and return values pass between
them as plain data (`wire`), so a program can neither read what is expected of it nor return an object that claims
to equal it, and its exit code is asked by nobody. Everything ends at one deadline.

A test sees what plain data can show. It does not see a list sorted in place, an iterator, an object of a class: a
function that returns one is graded `garbled`. A program starts no thread and no process. What no grader can tell is a
program that writes down the answers its prompt gave away: score on tests that the prompt does not show.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from t2.grading.sandbox.interpreter import Interpreter
from t2.grading.sandbox.isolation import Level, Sandbox, complaints
from t2.grading.sandbox.levels import LEVELS, Requirement, first_working
from t2.grading.sandbox.trial import CodeTest, Judges, Limits, tried
from t2.run.messages import check_choice
from t2.types import Grade

__all__ = ["CodeExecutor", "CodeTest"]

log = logging.getLogger(__name__)

LEAST_MEMORY_MB = 128  # Python itself wants a part of it
PROBE_S = 60.0  # on a busy machine
LONGEST_S = 60.0  # for a sample, however long its reference takes


class CodeExecutor:
    """Grades programs in the best sandbox that this machine offers and `require` allows.

    bwrap       bubblewrap, nothing else
    isolated    bubblewrap, or the same namespaces by util-linux (unshare: nothing else)
    any         where neither works, a plain subprocess (subprocess: nothing else), and only if `allow_unsafe` says so:
                it protects neither the user's files nor the network

    A sample gets `timeout_s` seconds. Where its test has a reference solution and that takes long, it gets
    `reference_factor` times as long as the reference, at most `LONGEST_S` (rule and factor of EvalPlus, 26d6d00, which
    applies them to every input by itself, and gives each 4 seconds at least). The reference is run in the sandbox too,
    when a sample of its test first runs out of time.

    `numpy` lets programs and tests import numpy. `python` is the interpreter that runs programs (default: this one).
    """

    def __init__(
        self,
        require: Requirement = "isolated",
        allow_unsafe: bool = False,
        timeout_s: float = 6.0,
        memory_mb: int = 1024,
        numpy: bool = False,
        python: str | None = None,
        reference_factor: float = 4.0,
    ) -> None:
        """Try the sandboxes, once per process.

        Raises:
            ValueError: an argument outside of what is allowed.
            OSError: no sandbox works; says which were tried and what to do.
            ModuleNotFoundError: numpy is asked for and not installed.
            FileNotFoundError: there is no such Python.
        """
        check_choice("executor.require", require, LEVELS)
        if not (math.isfinite(timeout_s) and timeout_s > 0.0):
            raise ValueError(f"executor.timeout_s is {timeout_s}; allowed: a number of seconds above 0.")
        if not (math.isfinite(reference_factor) and reference_factor >= 0.0):
            raise ValueError(f"executor.reference_factor is {reference_factor}; allowed: 0 (no more time) or above.")
        if memory_mb < LEAST_MEMORY_MB:
            raise ValueError(f"executor.memory_mb is {memory_mb}; allowed: {LEAST_MEMORY_MB} or more.")
        self._limits = Limits(timeout_s, memory_mb)
        self._packages = numpy_folder() if numpy else None
        self._sandbox = _working_sandbox(require, allow_unsafe, python or sys.executable, self._packages)
        self._judges = Judges(self._sandbox, self._packages)
        self._factor = reference_factor
        self._allowed_s: dict[CodeTest, float] = {}  # where it was asked for
        self._asking = threading.Lock()
        self._warned: set[str] = set()

    @property
    def level(self) -> Level:
        """The sandbox in use: bwrap, unshare or subprocess."""
        return self._sandbox.level

    def run(self, program: str, test: CodeTest) -> Grade:
        """Score 1 if the program passes its test, else 0 and why. Safe to call from several threads at once.

        wrong      the test failed
        error      the program raised an exception
        syntax     it does not compile, or defines no such function
        timeout    the program, or its test, took too long
        oom        it asked for too much memory
        crash      its process ended
        garbled    it returned no plain data, or more than a mebibyte, or wrote into the channel to its judge
        test       the test is at fault: it does not run, or never calls the function; logged once

        Raises:
            OSError: the sandbox, which worked before, cannot be started any more.
        """
        reason, detail = self._tried(program, test, self._limits)
        if reason == "timeout" and (allowed_s := self._allowed(test)) > self._limits.timeout_s:
            reason, detail = self._tried(program, test, Limits(allowed_s, self._limits.memory_mb))
        if reason == "test":
            self._warn("A test of %s is at fault: %s. Such samples get score 0.", test.entry_point, detail)
        return Grade(1.0 if reason is None else 0.0, reason, program)

    def _tried(self, program: str, test: CodeTest, limits: Limits) -> tuple[str | None, str]:
        one = self._sandbox, self._judges, limits, program, test
        reason, detail = tried(*one, subprocess.DEVNULL)
        if reason in ("unstarted", "lost"):  # it may have been the moment; the second time we want to know
            with tempfile.TemporaryFile() as said:
                reason, detail = tried(*one, said)
                if reason == "unstarted":
                    raise OSError(f"The sandbox ({self.level}) cannot be started any more: {complaints(said)}")
                reason = "test" if reason == "lost" else reason
        return reason, detail

    def _allowed(self, test: CodeTest) -> float:
        """Seconds for a sample of a test, by how long its reference takes."""
        floor_s = self._limits.timeout_s
        if test.reference is None or self._factor == 0.0 or floor_s >= LONGEST_S:
            return floor_s
        with self._asking:
            if test not in self._allowed_s:
                start = time.monotonic()
                reason, _ = self._tried(test.reference, test, Limits(LONGEST_S, self._limits.memory_mb))
                reference_s = time.monotonic() - start
                if reason is not None:
                    self._warn("The reference of %s fails its test: %s. It gives no time.", test.entry_point, reason)
                    reference_s = 0.0
                self._allowed_s[test] = min(LONGEST_S, max(floor_s, self._factor * reference_s))
            return self._allowed_s[test]

    def _warn(self, message: str, *arguments: str) -> None:
        """Log a message, the first of its kind."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *arguments)


def numpy_folder() -> str:
    """The folder that numpy is installed in.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("executor.numpy=true needs numpy, which is not installed: pip install numpy.")
    return str(Path(spec.origin).parent.parent)


@functools.cache
def _working_sandbox(require: Requirement, allow_unsafe: bool, python: str, packages: str | None) -> Sandbox:
    shown = () if packages is None else tuple(str(path) for path in sorted(Path(packages).glob("numpy*")))
    probe = functools.partial(_trouble, packages=packages)
    return first_working(require, allow_unsafe, Interpreter.ask(python), shown, probe)


def _trouble(sandbox: Sandbox, packages: str | None) -> str | None:
    """What happens to a right program in a sandbox, None if it passes."""
    body = "return x + 1" if packages is None else "import numpy; return int(numpy.add(x, 1))"
    probe, test = f"def f(x):\n    {body}\n", CodeTest("f", "assert f(1) == 2")
    with tempfile.TemporaryFile() as said:
        reason, detail = tried(sandbox, Judges(sandbox, packages), Limits(PROBE_S, 2048), probe, test, said)
        return None if reason is None else f"{reason} {detail} {complaints(said)}".strip()
