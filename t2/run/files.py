"""Atomic file writes, and safetensors files that are never mistaken for pickles.

Every file t2 keeps is written through `atomic_path`: to a temporary name in the same folder, then renamed, so that a
crash or a full disk leaves either the whole new file or the old one.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it if the block succeeds and removed if not.

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
        os.replace(partial, path)
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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and string metadata to a safetensors file atomically.

    Raises:
        OSError: the file cannot be written, a full disk included.
    """
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata is not None else None,
    )
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU and independent of the file, and its metadata.

    Raises:
        ValueError: the file is a pickle, truncated, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned because the tensors are memory maps of the file and would change with it.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} {_why_unreadable(path)} ({error}).") from error


def _why_unreadable(path: Path) -> str:
    # Looked at only now: a safetensors file may start with the same bytes, which give its header's length.
    with path.open("rb") as file:
        magic = file.read(4)
    pickled = magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or magic == b"PK\x03\x04":
        return "is a pickle or a zip archive under another name, which could run code; t2 never opens those"
    return "is truncated or no safetensors file; copy it again or use another one"
