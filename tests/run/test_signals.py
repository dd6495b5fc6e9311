"""Signals wait for the block, and are served then."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytest

from t2.run.signals import served_after


def test_a_signal_is_served_once_after_the_block() -> None:
    served: list[str] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        served.append("handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with served_after():
            for _ in range(2):
                signal.raise_signal(signal.SIGUSR1)
            served.append("block")
        assert served == ["block", "handler"]
        assert signal.getsignal(signal.SIGUSR1) is handler
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_raises_after_the_block_and_an_error_in_it_still_puts_handlers_back() -> None:
    done = []

    def block() -> None:
        with served_after():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    with pytest.raises(ValueError, match="in the block"), served_after():
        raise ValueError("in the block")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_there_is_nothing_to_do() -> None:
    """Only the main thread may set handlers, and a checkpoint may be written by another."""
    ended = []

    def write() -> None:
        with served_after():
            ended.append(True)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert ended
