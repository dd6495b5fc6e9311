"""A pool of worker processes that compare expressions, each of which is killed and replaced at a deadline.

An adversarial expression costs its own answer, never another that is compared at the same time. Replacements start in
the background, and no request is sent to a process that is not ready. The processes (`t2/grading/math/worker.py`) are
plain children with two pipes rather than those of `multiprocessing`, which would run the user's script again and import
torch in each of them. Nothing here depends on mathematics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue

_SCRIPT = Path(__file__).with_name("worker.py")
_START_S = 120.0  # enough for imports from a slow network disk
_TRIES = 3


class WorkerPool:
    """Distributes the requests of any number of threads to `workers` processes, which `close` ends."""

    def __init__(self, workers: int, deadline_s: float) -> None:
        """Starts the processes, which are ready after a second or more."""
        self._deadline_s = deadline_s
        self._idle: SimpleQueue[_Worker | str] = SimpleQueue()  # a string: why no worker is left
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        # The queue of requests, first in, first out; threads that waited for a worker directly could starve.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math-worker")
        for _ in range(workers):
            self._start()

    def ask(self, request: Sequence[str]) -> bool:
        """Returns the verdict of a worker, False at the deadline, which does not include the wait for an idle worker.

        Raises:
            RuntimeError: no worker can be started, or the pool is closed.
        """
        return self._threads.submit(self._ask, request).result()

    def close(self) -> None:
        """Ends all processes; requests that wait for one raise a RuntimeError."""
        with self._lock:
            self._closed = True
            for worker in self._running:
                worker.kill()
            self._running.clear()
        self._idle.put("The grader was closed while it was in use.")
        self._threads.shutdown(wait=False)

    def _ask(self, request: Sequence[str]) -> bool:
        for _ in range(_TRIES):
            worker = self._take()
            try:
                verdict = worker.ask(request, self._deadline_s)
            except BrokenPipeError:  # it ended while it was idle, not because of this request
                self._replace(worker)
                continue
            if verdict is None:
                self._replace(worker)
                return False
            self._idle.put(worker)
            return verdict
        raise RuntimeError(
            f"{_TRIES} processes that compare expressions ended before they were asked. Is memory short?"
        )

    def _take(self) -> _Worker:
        worker = self._idle.get()
        if isinstance(worker, str):
            self._idle.put(worker)  # for the next request that waits
            raise RuntimeError(worker)
        return worker

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                return
            worker = _Worker(self._deadline_s)
            self._running.add(worker)
        threading.Thread(target=self._await_start, args=(worker,), name="math-worker-start", daemon=True).start()

    def _await_start(self, worker: _Worker) -> None:
        if worker.reply(_START_S) is not None:
            self._idle.put(worker)
        elif not self._closed:
            self._idle.put(
                f"A process that compares expressions did not start within {_START_S:.0f} s; if it ended, it said why "
                f"above. Try `{sys.executable} -P {_SCRIPT} 5`, and see that math-verify is installed."
            )

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._running.discard(worker)
        self._start()


class _Worker:
    """A process and the pipes to it; used by one thread at a time."""

    def __init__(self, deadline_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(_SCRIPT), str(deadline_s)],  # -P: its folder holds a math.py
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # whether a comparison finishes depends on the order of terms
            start_new_session=True,  # Ctrl-C reaches the run only, which closes the pool
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()

    def ask(self, request: Sequence[str], deadline_s: float) -> bool | None:
        """Returns the verdict, or None at the deadline or the process's end; BrokenPipeError if it had ended before."""
        os.write(self._requests, json.dumps(request).encode() + b"\n")  # never blocks: it fits into the empty pipe
        return self.reply(deadline_s)

    def reply(self, deadline_s: float) -> bool | None:
        """Returns the next line from the process, or None at the deadline or if the process ends."""
        line, end = b"", time.monotonic() + deadline_s
        while not line.endswith(b"\n"):
            if not wait([self._replies], max(0.0, end - time.monotonic())):
                return None
            if not (part := os.read(self._replies, 64)):
                return None
            line += part
        return line == b"true\n"

    def kill(self) -> None:
        """Kills the process; the pipes are closed with the object."""
        self._process.kill()
        self._process.wait()
