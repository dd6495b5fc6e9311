"""Whether a program that a model wrote passes its tests: run in a sandbox, judged outside of it.

Two processes per sample. The candidate (`candidate`, inside the sandbox of `sandbox`) runs the program and knows no
test; the judge (`judge`, outside) runs the test and never the program. Arguments and return values pass between
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
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from t2.grading.sandbox.interpreter import Interpreter
from t2.grading.sandbox.isolation import Level, Sandbox, child_source, kill
from t2.grading.sandbox.judge_server import JudgeServer
from t2.grading.sandbox.levels import LEVELS, Requirement, first_working
from t2.run.messages import check_choice
from t2.types import Grade

log = logging.getLogger(__name__)

LEAST_MEMORY_MB = 128  # Python itself wants a part of it
PROBE_S = 60.0  # on a busy machine
GRACE_S = 1.0  # that a judge may outlive the deadline by if nobody is there to end it


@dataclass(frozen=True)
class CodeTest:
    """Trusted test code: `program` calls the function `entry_point` and raises where it is wrong.

    `setup` is run before it, without the function: imports and helpers.
    """

    entry_point: str
    program: str
    setup: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a name that no function has."""
        if not self.entry_point.isidentifier():
            raise ValueError(f"A test's entry point is the name of a function; got {self.entry_point!r}.")


@dataclass(frozen=True)
class Limits:
    """What one sample may take; processor time is limited to a little more than the time on the clock."""

    timeout_s: float
    memory_mb: int


class CodeExecutor:
    """Grades programs in the best sandbox that this machine offers and `require` allows.

    bwrap       bubblewrap, nothing else
    isolated    bubblewrap, or the same namespaces by util-linux (unshare: nothing else)
    any         where neither works, a plain subprocess (subprocess: nothing else), and only if `allow_unsafe` says so:
                it protects neither the user's files nor the network

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
        if memory_mb < LEAST_MEMORY_MB:
            raise ValueError(f"executor.memory_mb is {memory_mb}; allowed: {LEAST_MEMORY_MB} or more.")
        self._limits = Limits(timeout_s, memory_mb)
        self._packages = numpy_folder() if numpy else None
        self._sandbox = _working_sandbox(require, allow_unsafe, python or sys.executable, self._packages)
        self._warned = False

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
        reason, detail = _judged(self._sandbox, self._packages, self._limits, program, test, subprocess.DEVNULL)
        if reason in ("unstarted", "lost"):  # it may have been the moment; the second time we want to know
            with tempfile.TemporaryFile() as complaints:
                reason, detail = _judged(self._sandbox, self._packages, self._limits, program, test, complaints)
                if reason == "unstarted":
                    raise OSError(f"The sandbox ({self.level}) cannot be started any more: {_text(complaints)}")
                reason = "test" if reason == "lost" else reason
        if reason == "test" and not self._warned:
            self._warned = True
            log.warning("A test of %s is at fault: %s. Such samples get score 0.", test.entry_point, detail)
        return Grade(1.0 if reason is None else 0.0, reason, program)


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
    probe, limits = f"def f(x):\n    {body}\n", Limits(PROBE_S, 2048)
    with tempfile.TemporaryFile() as complaints:
        reason, detail = _judged(sandbox, packages, limits, probe, CodeTest("f", "assert f(1) == 2"), complaints)
        return None if reason is None else f"{reason} {detail} {_text(complaints)}".strip()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return " ".join(file.read(500).decode(errors="replace").split())


@functools.cache
def _judges(packages: str | None) -> JudgeServer:
    return JudgeServer(packages)


def _judged(
    sandbox: Sandbox, packages: str | None, limits: Limits, program: str, test: CodeTest, stderr: int | IO[bytes]
) -> tuple[str | None, str]:
    """The judge's reason and detail for one program; `unstarted` where the sandbox did not come up.

    `lost` where the judge ended without a verdict: by its test, or because somebody ended it.
    """
    deadline = time.monotonic() + limits.timeout_s
    start = (program, test.entry_point, limits.memory_mb << 20, math.ceil(limits.timeout_s) + 1, packages)
    nonce = os.urandom(8)
    with ExitStack() as held:
        files = [
            held.enter_context(os.fdopen(descriptor, mode, buffering=0))
            for pipe in (os.pipe(), os.pipe())
            for descriptor, mode in zip(pipe, ("rb", "wb"), strict=True)
        ]
        question_end, questions, answers, answer_end = files
        candidate = sandbox.start(child_source("candidate"), question_end.fileno(), answer_end.fileno(), stderr)
        held.callback(kill, candidate)
        question_end.close()
        answer_end.close()  # so that the judge sees the end of a candidate
        request = (nonce, start, test.program, test.setup, limits.timeout_s + GRACE_S)
        try:
            reply = _judges(packages).judge(request, questions.fileno(), answers.fileno(), deadline)
        except TimeoutError:
            return "timeout", ""
    if reply is None:
        return "lost", "the judge ended without a verdict"
    if type(reply) is not tuple or len(reply) != 3 or reply[0] != nonce:
        return "test", "the judge gave no verdict"
    return reply[1], reply[2]
