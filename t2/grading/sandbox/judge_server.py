"""The server of judge processes, seen from the process that wants grades.

It is started by the first executor that needs one and shared by all threads; should it be killed, the next sample
starts another. It holds nothing of one sample that another could see: each has a forked process and channels of its
own. What it does not do: run a model's program.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

from t2.grading.sandbox.isolation import ENVIRONMENT, PYTHON_FLAGS, child_source
from t2.grading.sandbox.wire import Garbled, decode, encode, framed


class JudgeServer:
    """Forks a judge per sample; `packages` is the folder that numpy lies in, for tests that use it."""

    def __init__(self, packages: str | None = None) -> None:
        """Start the server."""
        self._packages = packages
        self._lock = threading.Lock()
        self._start()

    def judge(self, request: tuple[Any, ...], questions: int, answers: int, deadline: float) -> Any:
        """What a judge answers to a request, given its ends of the candidate's pipes; None if it died.

        Raises:
            TimeoutError: it did not answer until `deadline`, on the monotonic clock in seconds.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over([theirs.fileno(), questions, answers])
            ours.settimeout(_left(deadline))
            parts: list[bytes] = []
            try:
                ours.sendall(framed(encode(request)))
                while not parts or parts[-1]:
                    ours.settimeout(_left(deadline))
                    parts.append(ours.recv(1 << 16))
                return decode(b"".join(parts)[8:])
            except (ConnectionError, Garbled):
                return None

    def _hand_over(self, descriptors: list[int]) -> None:
        control = self._control
        try:
            socket.send_fds(control, [b"j"], descriptors)
        except OSError:  # it was killed, or another thread has just closed its socket
            with self._lock:
                if self._control is control:  # no other thread was faster
                    self._end()
                    self._start()
            socket.send_fds(self._control, [b"j"], descriptors)

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            server = subprocess.Popen(
                [os.path.realpath(sys.executable), *PYTHON_FLAGS, "-c", child_source("judge")]
                + ([] if self._packages is None else [self._packages]),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._control, server)


def _end(control: socket.socket, server: subprocess.Popen[bytes]) -> None:
    control.close()
    server.kill()  # a forked process may hold the socket open; judges at work end by themselves
    server.wait()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
