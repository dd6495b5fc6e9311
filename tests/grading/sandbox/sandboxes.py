"""Executors at a level of one's choice, for tests; the tests of a level that a machine does not offer are skipped."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from t2.grading.sandbox.executor import CodeExecutor
from t2.grading.sandbox.interpreter import Interpreter

ISOLATED = ("bwrap", "unshare")
LEVELS = (*ISOLATED, "subprocess")


def executor(level: str, **changes) -> CodeExecutor:
    """An executor at one level, patient enough for a busy machine."""
    made = _executor(level, **{"timeout_s": 30.0, **changes})
    if isinstance(made, str):
        skip(level, made)
    return made


def any_executor(**changes) -> CodeExecutor:
    """For programs of our own: whatever sandbox there is, a plain subprocess too, by a Python that it can run."""
    try:
        return CodeExecutor("any", allow_unsafe=True, **changes)
    except OSError:  # of namespaces there are none, and root's own Python is closed to nobody
        return CodeExecutor("any", allow_unsafe=True, python=everybodys_python(), **changes)


def skip(level: str, trouble: str) -> NoReturn:
    """Skip a test for want of a level; tests/skips.py knows the reason by how it begins."""
    pytest.skip(f"The sandbox level {level} does not work here: {trouble}")


@functools.cache
def _executor(level: str, **changes) -> CodeExecutor | str:
    """The executor, or why there is none."""
    python = {"python": everybodys_python()} if level == "subprocess" else {}
    try:
        return CodeExecutor(require=level, allow_unsafe=level == "subprocess", **python, **changes)
    except OSError as error:
        return str(error)


@functools.cache
def everybodys_python() -> str:
    """A Python that another user may run: this one, unless it lies in root's home."""
    base = os.path.realpath(sys.executable)
    closed = any(not folder.stat().st_mode & 0o001 for folder in Path(base).parents)
    if not closed or os.geteuid() != 0:
        return base
    try:
        return Interpreter.ask("/usr/bin/python3").path
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(f"No Python that every user may run: {base} lies in a closed folder, and {error}")


def processes_with(marker: str) -> Iterator[int]:
    """The processes that carry a marker in their environment, the servers of judges left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            carries = marker.encode() in (folder / "environ").read_bytes()
            judging = b"'judge':" in (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended, or is another user's
            continue
        if carries and not judging:
            yield int(folder.name)
