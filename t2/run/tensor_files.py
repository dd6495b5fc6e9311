"""Safetensors files with a checksum, which are never mistaken for pickles.

A checksum finds damage, not forgery: whoever changes a file on purpose can compute it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2.run.files import atomic_path

CHECKSUM = "sha256"  # the key of the checksum in a file's metadata


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and string metadata to a safetensors file atomically, with a checksum of both in the metadata.

    The same tensors and metadata give the same bytes.

    Raises:
        OSError: the file cannot be written, a full disk included.
    """
    kept, storages = {}, set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        if (storage := one.untyped_storage().data_ptr()) in storages:
            one = one.clone()  # safetensors refuses tensors that share memory
        storages.add(storage)
        kept[name] = one
    strings = dict(metadata or {})
    content = safetensors.torch.save(kept, strings | {CHECKSUM: content_sha256(kept, strings)})
    with atomic_path(path) as partial:
        partial.write_bytes(_in_order(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU and independent of the file, and its metadata.

    The checksum is compared and left out of the metadata; files of other programs and of older t2 have none.

    Raises:
        ValueError: the file is a pickle, truncated, no safetensors file, or not what its checksum says.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned because the tensors are memory maps of the file and would change with it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} {_why_unreadable(path)} ({error}).") from error
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != content_sha256(tensors, metadata):
        raise ValueError(
            f"{path} is damaged: its content is not what its checksum says. Copy it again or make it anew."
        )
    return tensors, metadata


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256, 64 hex digits, of names, dtypes, shapes and bytes of tensors on the CPU, and of the metadata."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _in_order(content: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted; the library writes them in an order of chance."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format's alignment
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _why_unreadable(path: Path) -> str:
    # Looked at only now: a safetensors file may start with the same bytes, which give its header's length.
    with path.open("rb") as file:
        magic = file.read(4)
    pickled = magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or magic == b"PK\x03\x04":
        return "is a pickle or a zip archive under another name, which could run code; t2 never opens those"
    return "is truncated or no safetensors file; copy it again or use another one"
