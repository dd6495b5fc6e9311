"""Signals that are served after what must not be interrupted.

A handler runs between any two instructions of the main thread. One that saves a checkpoint itself (Lightning's, at
Slurm's warning) or raises (Ctrl-C) would meet files, or a library's objects, half made. What a SIGKILL leaves
is `t2.run.files`' to bound.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@contextmanager
def served_after() -> Iterator[None]:
    """Have the signals that come during the block served when it has ended, each once, in the order they came in.

    Signals that are ignored stay so. Python serves signals in the main thread; in another one there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: dict[int, None] = {}

    def note(signum: int, _: FrameType | None) -> None:
        came[signum] = None

    # None: a handler that was not installed from Python, and could not be put back.
    before = {one: found for one in DEFERRED if (found := signal.getsignal(one)) not in (signal.SIG_IGN, None)}
    for one in before:
        signal.signal(one, note)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for signum in came:
            signal.raise_signal(signum)
