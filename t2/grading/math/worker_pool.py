"""A few processes that compare expressions, each of which is killed and replaced when it does not answer in time.

One hostile expression costs its own answer, never another that is compared at the same time. A replacement starts in
the background, and nobody is handed a process that is not ready. The processes (`t2/grading/math/worker.py`) are plain
children with two pipes, not of `multiprocessing`: that would run the user's script again in each of them, and import
torch with it. Knows nothing of mathematics.
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
_START_S = 120.0  # imports from a cold network disk
_TRIES = 3


class WorkerPool:
    """`workers` processes for any number of threads; nothing starts before it is made, `close` ends all."""

    def __init__(self, workers: int, deadline_s: float) -> None:
        """Start the processes; they are ready a second or more later."""
        self._deadline_s = deadline_s
        self._idle: SimpleQueue[_Worker | str] = SimpleQueue()  # a string says why there will be no more workers
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        # Requests queue here, first come first served; who waits for a worker itself can be overtaken for ever.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math-worker")
        for _ in range(workers):
            self._start()

    def ask(self, request: Sequence[str]) -> bool:
        """The verdict of a worker, False where none came before the deadline; a wait for an idle one is not counted.

        Raises:
            RuntimeError: no worker can be started, or the pool is closed.
        """
        return self._threads.submit(self._ask, request).result()

    def close(self) -> None:
        """End all processes; who waits for one gets a RuntimeError."""
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
            except BrokenPipeError:  # it ended while it was idle: not this request's fault
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
            self._idle.put(worker)  # for the next one who waits
            raise RuntimeError(worker)
        return worker

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                return
            worker = _Worker(self._deadline_s)
            self._running.add(worker)
        threading.Thread(target=self._welcome, args=(worker,), name="math-worker-start", daemon=True).start()

    def _welcome(self, worker: _Worker) -> None:
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
    """One process and the pipes to it; used by one thread at a time."""

    def __init__(self, deadline_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(_SCRIPT), str(deadline_s)],  # -P: its folder holds a math.py
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # the order of terms decides how far a comparison gets
            start_new_session=True,  # Ctrl-C is for the run, which then closes the pool
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()

    def ask(self, request: Sequence[str], deadline_s: float) -> bool | None:
        """The verdict, or None if it did not come in time or the process ended; BrokenPipeError if it had before."""
        os.write(self._requests, json.dumps(request).encode() + b"\n")  # fits the pipe, which is empty
        return self.reply(deadline_s)

    def reply(self, deadline_s: float) -> bool | None:
        """The next line from the process, or None if it does not come in time or at all."""
        line, end = b"", time.monotonic() + deadline_s
        while not line.endswith(b"\n"):
            if not wait([self._replies], max(0.0, end - time.monotonic())):
                return None
            if not (part := os.read(self._replies, 64)):
                return None
            line += part
        return line == b"true\n"

    def kill(self) -> None:
        """End the process now; the pipes close with the object."""
        self._process.kill()
        self._process.wait()
