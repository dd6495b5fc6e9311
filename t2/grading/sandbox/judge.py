"""The judge processes: run the code of tests against a function that lives in the candidate process.

A server imports what tests commonly need, then forks a judge for every sample: to start Python for each of them would
cost ten times as much. It is itself inside a sandbox, another one than any program's: tests come with a data set, and
may do no more to this machine than programs may. A judge never runs a model's code. In its tests the entry point is a
proxy: it sends the arguments to the candidate process and returns the value that came back, made anew of exact builtin
types, or raises the builtin exception whose name came back. So expected values stay here, and any form of test works
that looks at values: literal asserts, `math.isclose`, sets, loops, `check(candidate)`. The exceptions of `ENDING`, with
which a loop or `map` of a test ends without an error, fail the sample instead.

What it does not do: hand over functions, or arguments by reference (a test cannot see its list sorted in place); trust
an exit code; keep the tests of one data set apart from each other, whose judges are one user's. Like `candidate`, it is
run from its source text.
"""

from __future__ import annotations

import builtins
import importlib
import os
import random
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from .wire import (
    LARGEST_ANSWER,
    Garbled,
    Unencodable,
    encode,
    limit_resources,
    receive,
    send,
    silence,
)

PRELOADED = ("collections", "copy", "datetime", "functools", "itertools", "math", "re", "string")
NAME = "judge"  # of the module that a test runs as
ENDING = (StopIteration, StopAsyncIteration, GeneratorExit)
TEST_FAULTS = (ImportError, MemoryError, NameError)  # no value that a candidate returns leads a test to these


def main() -> None:
    """Fork a judge for every seconds and three descriptors that arrive, until the executor hangs up."""
    control = socket.socket(fileno=os.dup(0))
    silence()
    for folder in sys.argv[1:]:  # site-packages, for numpy
        sys.path.append(folder)
        importlib.import_module("numpy")
    for name in PRELOADED:
        importlib.import_module(name)
    control.send(b"ready")
    ends: dict[int, float] = {}  # of the judges at work
    while True:
        called = select.select([control], [], [], 1.0 if ends else None)[0]
        clear(ends)
        if not called:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 64, 3)
        if not message:
            break
        child = os.fork()
        if child == 0:
            try:
                control.close()
                judge(*descriptors)
            finally:
                os._exit(0)
        ends[child] = time.monotonic() + float(message)
        for descriptor in descriptors:
            os.close(descriptor)
    clear(dict.fromkeys(ends, 0.0))


def clear(ends: dict[int, float]) -> None:
    """Forget the judges that have ended, and end those whose time is over: a test may have switched its alarm off."""
    for child, end in list(ends.items()):
        if os.waitpid(child, os.WNOHANG)[0]:
            del ends[child]
        elif end < time.monotonic():
            os.kill(child, signal.SIGKILL)  # not waited for yet, so that the number is still its own


def judge(channel: int, questions: int, answers: int) -> None:
    """Judge one sample: (nonce, start, test, setup, alarm_s) comes over the channel, (nonce, reason, detail) goes."""
    nonce, start, test, setup, alarm_s = receive(channel)
    signal.setitimer(signal.ITIMER_REAL, alarm_s)  # should the server be gone by then
    limit_resources(*start[2:4])
    random.seed(0)  # the same draws for every sample
    candidate = Candidate(questions, answers)
    reason, detail = verdict(candidate, start, test, setup)
    send(channel, encode((nonce, reason, detail)))


class Stopped(BaseException):
    """Nothing more can come from the candidate. A BaseException: no test catches it by accident."""


class Candidate:
    """The function in the candidate process, and what became of it."""

    def __init__(self, questions: int, answers: int) -> None:
        """Talk over two file descriptors."""
        self.questions, self.answers = questions, answers
        self.call_id = b""
        self.calls = 0
        self.raised: BaseException | None = None  # by the candidate, last
        self.end: tuple[str, str] | None = None  # reason and detail

    def start(self, start: tuple[Any, ...]) -> None:
        """Send the program, and do not wait."""
        self._ask(*start)

    def wait(self) -> None:
        """Wait until the program has run and defined its function.

        Raises:
            Stopped: it did not get there.
        """
        if self._answer(early=True)[0] != "started":
            self.stop("garbled")
        kind, content = self._answer()
        if kind == "syntax":
            self.stop("syntax")
        if kind == "raised":
            self.stop("oom" if content == "MemoryError" else "error")
        if kind != "ready":
            self.stop("garbled")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What the function returns.

        Raises:
            Stopped: there is no answer, or it would end a loop of the test. Otherwise whatever builtin exception the
                function raised.
        """
        if self.end is not None:
            raise Stopped
        self.calls += 1
        self._ask(list(arguments), keywords)
        kind, content = self._answer()
        if kind == "value":
            return content
        if kind != "raised":
            self.stop("garbled")
        self.raised = exception_named(content)
        if isinstance(self.raised, ENDING):
            self.stop("error")
        raise self.raised

    def stop(self, reason: str, detail: str = "") -> NoReturn:
        """Let this be the verdict, whatever the test makes of the exception."""
        self.end = reason, detail
        raise Stopped

    def _ask(self, *content: Any) -> None:
        self.call_id = os.urandom(8)
        try:
            send(self.questions, encode((self.call_id, *content)))
        except Unencodable as error:
            self.stop("test", f"it passes {error} as an argument; only plain values can be passed")
        except BrokenPipeError:  # what it last said is still there to be read
            return

    def _answer(self, early: bool = False) -> tuple[Any, Any]:
        try:
            message = receive(self.answers, LARGEST_ANSWER)
        except EOFError:
            self.stop("unstarted" if early else "crash")
        except Garbled:
            self.stop("garbled")
        if type(message) is not tuple or len(message) != 3 or message[0] != self.call_id:
            self.stop("garbled")
        return message[1], message[2]


def exception_named(name: object) -> BaseException:
    """A builtin exception of that name, or a RuntimeError where there is none."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, BaseExceptionGroup):
        return kind.__new__(kind)  # some want arguments, which did not come over
    return RuntimeError(name)


def verdict(candidate: Candidate, start: tuple[Any, ...], test: str, setup: str) -> tuple[str | None, str]:
    """Why a program fails its test, None where it passes; and what is wrong with the test where that is why."""
    entry_point = start[1]
    module = type(sys)(NAME)
    sys.modules[NAME] = module
    try:
        candidate.start(start)
        exec(compile(setup, "<setup>", "exec"), module.__dict__)
        candidate.wait()
        setattr(module, entry_point, candidate)
        exec(compile(test, "<test>", "exec"), module.__dict__)
    except BaseException as error:
        return candidate.end or reason_of(error, candidate)
    if candidate.end is None and candidate.calls == 0:
        return "test", f"it never calls {entry_point}"
    return candidate.end or (None, "")


def reason_of(error: BaseException, candidate: Candidate) -> tuple[str, str]:
    """The reason behind an exception that ended a test."""
    if error is candidate.raised:
        return "oom" if isinstance(error, MemoryError) else "error", ""
    if candidate.calls == 0 or isinstance(error, TEST_FAULTS):
        return "test", f"{type(error).__name__}: {error}"[:500]
    return "wrong", ""
