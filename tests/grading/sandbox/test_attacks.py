"""No hostile program passes, and none leaves anything behind: all attacks of a level at once, then a look around."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from all_attacks import ATTACKS, MEMORY_MB, PARTS, TIMEOUT_S, allowed, attack
from attacks import TEST
from attacks_runner import CHANGING
from attacks_values import LIES
from sandboxes import ISOLATED, LEVELS, executor, processes_with

from t2.grading.sandbox import isolation as sandbox
from t2.grading.sandbox.executor import CodeTest
from t2.types import Grade

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/", "/usr", "/usr/bin", "/root", str(Path.home()), ".")


@dataclass(frozen=True)
class Aftermath:
    """What the attacks of one level came to."""

    grades: dict[str, Grade]
    processes: list[int]
    judges: list[str]
    files: list[str]
    callers: int
    descriptors: tuple[list[str], list[str]]
    library_size: tuple[int, int]


def attacks_for(level: str) -> list[str]:
    """Those that are run at a level: what does not depend on it at one, and without isolation only the tame ones."""
    return [name for name in allowed(level in ISOLATED) if level == "bwrap" or name not in LIES | CHANGING]


@pytest.fixture(params=LEVELS)
def aftermath(request) -> Aftermath:
    return aftermath_of(request.param)


@functools.cache
def aftermath_of(level: str) -> Aftermath:
    """All attacks of a level, run once."""
    marker = f"t2marker{uuid.uuid4().hex}"
    one = executor(level, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)
    one.run("def f(x): return 23770", TEST)
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setitem(sandbox.ENVIRONMENT, "T2_MARKER", marker)
        listener.setblocking(False)
        port = str(listener.getsockname()[1])
        names = attacks_for(level)
        before = sorted(os.listdir("/proc/self/fd")), os.stat(os.__file__).st_size
        with ThreadPoolExecutor(12) as pool:
            graded = pool.map(lambda name: attack(one, name, marker, port), names)
            grades = dict(zip(names, graded, strict=True))
        return Aftermath(
            grades,
            survivors(marker),
            judging(),
            [str(path) for place in PLACES for path in Path(place).glob(f"{marker}*")],
            callers(listener),
            (before[0], sorted(os.listdir("/proc/self/fd"))),
            (before[1], os.stat(os.__file__).st_size),
        )


def survivors(marker: str) -> list[int]:
    """The processes that are left, after a moment for the kernel to clear namespaces away."""
    for _ in range(50):
        left = list(processes_with(marker))
        if not left:
            break
        time.sleep(0.1)
    return left


def judging() -> list[str]:
    """The judges that are still at work, after the moment that they may outlive their deadline by."""
    for _ in range(50):
        left = list(forked_judges())
        if not left:
            break
        time.sleep(0.1)
    return left


def forked_judges() -> Iterator[str]:
    """The processes of the judges' Python whose parent is one too: not the server, nor what makes its sandbox.

    Those of another process of this test run are left out; one that has lost its parents counts.
    """
    pythons, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if b"'judge':" in (folder / "cmdline").read_bytes() and "python" in (folder / "comm").read_text():
                pythons[folder.name] = parents[folder.name]
    for pid, parent in pythons.items():
        above = [parent]
        while above[-1] in parents:
            above.append(parents[above[-1]])
        if parent in pythons and (str(os.getpid()) in above or str(os.getppid()) not in above):
            yield pid


def callers(listener: socket.socket) -> int:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return 0
    return 1


@pytest.mark.parametrize(("level", "name"), [(level, name) for level in LEVELS for name in attacks_for(level)])
def test_the_attack_fails_for_the_reason_it_should(level, name):
    grade = aftermath_of(level).grades[name]
    assert grade.score == 0.0
    assert grade.reason in ATTACKS[name].reasons


def test_there_are_many():
    """No name is used twice, and the number that is promised is there."""
    assert len(ATTACKS) == sum(map(len, PARTS)) >= 200


def test_no_process_is_left(aftermath):
    assert aftermath.processes == []


def test_no_judge_is_left(aftermath):
    assert aftermath.judges == []


def test_no_file_is_left(aftermath):
    assert aftermath.files == []


def test_nobody_was_called(aftermath):
    assert aftermath.callers == 0


def test_no_descriptor_is_left_open(aftermath):
    assert aftermath.descriptors[0] == aftermath.descriptors[1]


def test_the_library_is_as_it_was(aftermath):
    assert aftermath.library_size[0] == aftermath.library_size[1]


@pytest.mark.parametrize("level", LEVELS)
def test_the_next_program_is_graded_as_ever(level):
    aftermath_of(level)
    one = executor(level)
    assert one.run("def f(x): return x * 7919 + 13", TEST).score == 1.0
    assert one.run("def f(x): return x", TEST).reason == "wrong"


def test_the_marker_would_be_found():
    """That a survivor and a file are noticed at all."""
    marker = f"t2marker{uuid.uuid4().hex}"
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {"T2_MARKER": marker})
    try:
        assert list(processes_with(marker)) == [pid]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_what_remains():
    """The stated limit: a forged answer that is right passes, as does one that the prompt gave away."""
    assert executor("isolated").run("def f(x): return 23770", CodeTest("f", "assert f(3) == 23770")).score == 1.0
