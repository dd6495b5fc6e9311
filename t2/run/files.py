"""Atomic, durable writes of files and folders, and text files of users, read with a message for what is wrong.

Every file t2 keeps is written through `atomic_path`: to a temporary name in the same folder, flushed to the disk, then
renamed, so that a crash, a full disk or a power failure leaves either the whole new file or the old one.

Files of tensors: `t2.run.tensor_files`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it if the block succeeds and removed if not.

    The file is on the disk before it has its name, and its name before the block ends.

    Raises:
        OSError: the disk is full; what stood at `path` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp makes 0600 files; a shared cache must stay readable
        move_into_place(partial, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"The disk is full: {path} could not be written. Nothing that was there before is lost. "
                "Free some space, or point T2_CACHE (caches) or hydra.run.dir (runs) to another disk",
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a file of the same disk: its content is there before it has its name, and its name on return."""
    _flush(partial)
    os.replace(partial, path)
    _flush(path.parent)  # else the name may be lost in a power failure


@contextmanager
def atomic_folder(path: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, renamed to it if the block succeeds and removed if not.

    As with `atomic_path`, everything in it is on the disk before it has its name.

    Raises:
        FileExistsError: there is something at `path`, other than an empty folder.
        OSError: the disk is full, or has less than `needed_bytes` left before anything is written.
    """
    check_empty(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < needed_bytes:
        raise _full(path, f" It takes {needed_bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free.")
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished"))
    try:
        yield partial
        for inside in (*partial.rglob("*"), partial):
            # mkdtemp makes 0700 folders, and safetensors 0600 files.
            inside.chmod((0o777 if inside.is_dir() else 0o666) & ~_umask())
            _flush(inside)
        os.rename(partial, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        # safetensors has no error of its own for a full disk.
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
            raise _full(path, "") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(path: Path) -> None:
    """Raise FileExistsError where something is at `path` that a new folder would take the place of."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "is not empty" if path.is_dir() else "is a file"
        raise FileExistsError(f"{path} {what}, and nothing is written over. Give a new folder, or remove that one.")


def _full(path: Path, size: str) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"The disk is full: {path} could not be written, and nothing of it is left.{size} Free some space, or give a "
        "folder on another disk",
    )


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's names, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def parse_json(content: bytes, source: str, hint: str) -> Any:
    """Parse a JSON text of a user's file, UTF-8 with or without a byte order mark.

    `source` names it in messages, and `hint` says what to do.

    Raises:
        ValueError: it is no UTF-8, no JSON, or nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise ValueError(f"{source} is not JSON: {error}. {hint}") from error
    except RecursionError:
        raise ValueError(f"{source} is not JSON that can be read: it is nested too deeply. {hint}") from None


def read_lines(path: Path, hint: str) -> list[str]:
    """The lines of a user's text file, UTF-8 with or without a byte order mark.

    Raises:
        ValueError: it is no UTF-8; `hint` says what to do.
    """
    return decode_lines(path.read_bytes(), str(path), hint)


def decode_lines(data: bytes, source: str, hint: str) -> list[str]:
    """The lines of UTF-8 text, as `read_lines` gives those of a file; `source` names it in the message."""
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: {error}. {hint}") from error
