"""A run's folder belongs to one job at a time, and a finished run's files are not written over by another.

The lock is `flock` on `RUN/.lock`, which the operating system releases when the job ends, however it ends; the file
itself stays and says who held it last. Threads and jobs on one machine see it, and so do those of other machines where
the file system passes locks on (NFS does). Where no folder is given, its name is that of the moment
(conf/paths/folders.yaml), and `unused_folder` keeps two runs of one second apart. Not here: what is in a run's folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from t2.run.places import typed
from t2.run.results import RESULTS_FILE

LOCK_FILE = ".lock"
# What a script would write over; an expert is there once a training run has validated.
KEPT_FILES = (
    *("expert.safetensors", "adapter.safetensors", "checkpoints/last.ckpt", "checkpoints/previous.ckpt"),
    *(RESULTS_FILE, "mixture.json", "centroids.safetensors"),
)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a file system that has none
_held: set[int] = set()  # descriptors of this process


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder for the block; the folder is made if need be.

    Leftovers of writes that a kill cut short are removed. A file system without locks gives a warning.

    Raises:
        BlockingIOError: another job holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        for leftover in (*folder.glob(".*.part"), *folder.glob("checkpoints/.*.part")):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        _held.discard(descriptor)
        with contextlib.suppress(OSError):  # a file system without locks, which was warned of
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder of a cache for the block, and yield whether another process held it until now.

    A file system without locks lets all of them in at once, which costs time and nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    waited = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield waited
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Whether a job runs in the folder; False where the file system has no locks."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (*NO_LOCKS, errno.ENOENT):
            raise
    return False


def check_new(folder: Path) -> None:
    """Raise FileExistsError where a new run would write over what an earlier one left in the folder."""
    found = [name for name in KEPT_FILES if (folder / name).is_file()]
    if not found:
        return
    goes_on = (
        f"go on with that run ({typed('train')} resume=RUN), " if any("checkpoint" in name for name in found) else ""
    )
    raise FileExistsError(
        f"{folder} holds {', '.join(found)} of an earlier run, which a new one would write over. Give another folder "
        f"(hydra.run.dir=FOLDER, of a sweep hydra.sweep.dir=FOLDER), {goes_on}or delete it."
    )


def unused_folder(path: str) -> str:
    """Make a folder and return its path: `path` or, where that is there, the first of `path-2`, `path-3`, ..."""
    for number in count(1):
        folder = Path(path if number == 1 else f"{path}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return str(folder)
    raise AssertionError("count is endless")


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        raise BlockingIOError(
            f"{folder} is in use: {holder} runs in it. Wait for it to end, stop it, or give another folder "
            "(hydra.run.dir=FOLDER)."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"The file system of {folder} has no locks, so a second job in it is not noticed.", stacklevel=2)


def _forget() -> None:
    """Close the locks in a process that was forked, which would hold them beyond its parent's death."""
    for descriptor in _held:
        with contextlib.suppress(OSError):  # closed by the child already
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
