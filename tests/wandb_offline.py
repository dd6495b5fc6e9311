"""Reads what W&B wrote offline, so that tests can say what was logged; wandb itself has no reader any more.

The file is a LevelDB log behind a 7-byte header: 32 KiB blocks of chunks, each headed by checksum (4), length (2) and
kind (1: full, 2: first, 3: middle, 4: last). A record is a protobuf message of wandb, which is no documented API.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32 * 1024, 7


@dataclass
class OfflineRun:
    """One run: its name and id, config, rows of history, exit code (None while it has none)."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    def values(self, key: str) -> list[Any]:
        """Everything that was logged under `key`, in order."""
        return [row[key] for row in self.history if key in row]

    def table(self, key: str) -> dict[str, Any]:
        """The last table logged under `key`: its columns and data."""
        return json.loads((self.folder / "files" / self.values(f"{key}/path")[-1]).read_text())


def read_runs(root: Path) -> list[OfflineRun]:
    """Every offline run below a folder."""
    return [_read(path) for path in sorted(root.rglob("wandb/offline-run-*/run-*.wandb"))]


def _read(path: Path) -> OfflineRun:
    run = OfflineRun(path.parent)
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif kind == "history":
            run.history.append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B", "not a .wandb file"
    offset, parts = HEADER, b""
    while offset + HEADER <= len(data):
        if BLOCK - offset % BLOCK < HEADER:  # too little left for a header: padding
            offset += BLOCK - offset % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[offset + 4 : offset + HEADER])
        parts += data[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
