"""One program and one test: the sandbox with the program, the judge of it in another, and the time they get.

A sample is over at its deadline, or as soon as its program holds more memory than it may; both its processes end then.
What it does not do: choose a sandbox, or say what a reason means (`executor`).
"""

from __future__ import annotations

import functools
import math
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

from t2.grading.sandbox.isolation import Sandbox, child_source, kill
from t2.grading.sandbox.judge_server import JudgeServer, OutOfMemory
from t2.grading.sandbox.memory import held_bytes

GRACE_S = 1.0  # that a judge may outlive the deadline by if nobody is there to end it


@dataclass(frozen=True)
class CodeTest:
    """The code of a test: `program` calls the function `entry_point` and raises where it is wrong.

    `setup` is run before it, without the function: imports and helpers. `reference` is a program that passes, if the
    data set has one: where it takes long, others may too.
    """

    entry_point: str
    program: str
    setup: str = ""
    reference: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a name that no function has."""
        if not self.entry_point.isidentifier():
            raise ValueError(f"A test's entry point is the name of a function; got {self.entry_point!r}.")


@dataclass(frozen=True)
class Limits:
    """What one sample may take; processor time is limited to a little more than the time on the clock."""

    timeout_s: float
    memory_mb: int


@dataclass(frozen=True)
class Judges:
    """The sandbox that judges run in, and the folder that numpy lies in, if tests and programs may import it."""

    sandbox: Sandbox
    packages: str | None = None

    def server(self) -> JudgeServer:
        """The server that all samples of this process share, started if there is none.

        Raises:
            OSError: it does not start.
        """
        return _server(self.sandbox, self.packages)


@functools.cache
def _server(sandbox: Sandbox, packages: str | None) -> JudgeServer:
    return JudgeServer(sandbox, packages)


def tried(
    sandbox: Sandbox, judges: Judges, limits: Limits, program: str, test: CodeTest, stderr: int | IO[bytes]
) -> tuple[str | None, str]:
    """The judge's reason and detail for one program; `unstarted` where the sandbox did not come up.

    `lost` where the judge ended without a verdict: by its test, or because somebody ended it. What the sandbox itself
    complains of is written to `stderr`.

    Raises:
        OSError: a sandbox cannot be started.
    """
    server = judges.server()
    deadline = time.monotonic() + limits.timeout_s
    memory_bytes = limits.memory_mb << 20
    start = (program, test.entry_point, memory_bytes, math.ceil(limits.timeout_s) + 1, judges.packages)
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

        def too_much() -> bool:
            return held_bytes(candidate.pid) > memory_bytes

        try:
            reply = server.judge(request, questions.fileno(), answers.fileno(), deadline, too_much)
        except TimeoutError:
            return "timeout", ""
        except OutOfMemory:
            return "oom", ""
    return _verdict(reply, nonce)


def _verdict(reply: Any, nonce: bytes) -> tuple[str | None, str]:
    if reply is None:
        return "lost", "the judge ended without a verdict"
    match reply:
        case (bytes(number), None | str() as reason, str(detail)) if number == nonce:
            return reason, detail
    return "test", "the judge gave no verdict"
