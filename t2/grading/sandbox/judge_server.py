"""The server of judge processes, seen from the process that wants grades.

It is started by the first executor that needs one, in a sandbox, and shared by all threads; should it be killed, the
next sample starts another. It holds nothing of one sample that another could see: each has a forked process and
channels of its own. What it does not do: run a model's program.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from t2.grading.sandbox.isolation import Sandbox, child_source, complaints, kill
from t2.grading.sandbox.wire import LARGEST_ANSWER, Garbled, decode, encode, framed

READY_S = 60.0  # on a busy machine
LOOK_S = 0.1  # between two looks at a candidate


class OutOfMemory(Exception):
    """The candidate holds more than it may."""


class JudgeServer:
    """Forks a judge per sample; `packages` is the folder that numpy lies in, for tests that use it."""

    def __init__(self, sandbox: Sandbox, packages: str | None = None) -> None:
        """Start the server.

        Raises:
            OSError: it does not start; says why.
        """
        self._sandbox, self._packages = sandbox, packages
        self._lock = threading.Lock()
        self._start()

    def judge(
        self, request: tuple[Any, ...], questions: int, answers: int, deadline: float, too_much: Callable[[], bool]
    ) -> Any:
        """What a judge answers to a request, given its ends of the candidate's pipes; None if it died.

        `too_much` is asked every `LOOK_S` whether the candidate has used up its memory.

        Raises:
            TimeoutError: it did not answer until `deadline`, on the monotonic clock in seconds.
            OutOfMemory: `too_much` said so.
            OSError: the server was killed, and does not start again.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over(request[-1], [theirs.fileno(), questions, answers])
            ours.settimeout(_left(deadline))
            parts: list[bytes] = []
            try:
                ours.sendall(framed(encode(request)))
                while not parts or parts[-1]:
                    ours.settimeout(min(LOOK_S, _left(deadline)))
                    try:
                        parts.append(ours.recv(1 << 16))
                    except TimeoutError as error:
                        if too_much():
                            raise OutOfMemory from error
                    if sum(map(len, parts)) > LARGEST_ANSWER:  # its test wrote into the channel
                        return None
                return decode(b"".join(parts)[8:])
            except (ConnectionError, Garbled):
                return None

    def _hand_over(self, seconds: float, descriptors: list[int]) -> None:
        control, message = self._control, [b"%.3f" % seconds]
        try:
            if self._server.returncode is not None:  # what is left of it may still take messages, and answers none
                raise ConnectionResetError
            socket.send_fds(control, message, descriptors)
        except OSError:  # it was killed, or another thread has just closed its socket
            with self._lock:
                if self._control is control:  # no other thread was faster
                    self._end()
                    self._start()
            socket.send_fds(self._control, message, descriptors)

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        started: SimpleQueue[subprocess.Popen[bytes] | Exception] = SimpleQueue()
        with theirs, tempfile.TemporaryFile() as stderr:

            def keep() -> None:
                """A sandbox ends with the thread that started it, so this one stays."""
                try:
                    server = self._sandbox.start(
                        child_source("judge"),
                        theirs.fileno(),
                        subprocess.DEVNULL,
                        stderr,
                        arguments=[] if self._packages is None else [self._packages],
                        judges=True,
                    )
                except Exception as error:  # raised below, in the thread that waits
                    started.put(error)
                    return
                started.put(server)
                server.wait()

            threading.Thread(target=keep, daemon=True, name="t2 judges").start()
            server = started.get()
            if isinstance(server, Exception):
                self._control.close()
                raise server
            theirs.close()
            self._server = server
            self._end = weakref.finalize(self, _end, self._control, server)
            self._control.settimeout(READY_S)
            try:
                ready = self._control.recv(8)
            except OSError:
                ready = b""
            self._control.settimeout(None)
            if not ready:
                self._end()
                raise OSError(f"The sandbox of the judges ({self._sandbox.level}) does not start: {complaints(stderr)}")


def _end(control: socket.socket, server: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)  # a forked process may hold it open
    control.close()
    kill(server)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
