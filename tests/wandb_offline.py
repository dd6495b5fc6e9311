"""Reads what W&B wrote offline, so that tests can say what was logged; wandb itself has no reader any more.

The file is a LevelDB log behind a 7-byte header: 32 KiB blocks of chunks, each headed by checksum (4), length (2) and
kind (1: full, 2: first, 3: middle, 4: last). A record is a protobuf message of wandb, which is no documented API.
While W&B's service still writes, the last chunk may be there in part: its checksum does not hold, and reading ends.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
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
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # by name, what `define_metric` said
    alerts: list[str] = field(default_factory=list)  # titles
    artifacts: list[Any] = field(default_factory=list)  # records of those that were logged
    exit_code: int | None = None

    def values(self, key: str) -> list[Any]:
        """Everything that was logged under `key`, in order."""
        return [row[key] for row in self.history if key in row]

    def table(self, key: str) -> dict[str, Any]:
        """The table logged under `key`, or the increments of one: its columns, and the data of all."""
        parts = [json.loads((self.folder / "files" / path).read_text()) for path in self._paths(key)]
        return {"columns": parts[-1]["columns"], "data": [row for part in parts for row in part["data"]]}

    def _paths(self, key: str) -> list[str]:
        nested = [value["path"] for value in self.values(key)]
        paths = nested or self.values(f"{key}/path")
        kinds = [value["_type"] for value in self.values(key)] or self.values(f"{key}/_type")
        return paths if kinds[-1] == "incremental-table-file" else paths[-1:]


def read_runs(root: Path, *, patience_s: float = 30.0) -> list[OfflineRun]:
    """Every offline run below a folder, once each has ended: W&B's service still writes when `wandb.finish` returns."""
    end = time.monotonic() + patience_s
    while True:
        found = [_read(path) for path in sorted(root.rglob("wandb/offline-run-*/run-*.wandb"))]
        if all(run.exit_code is not None for run in found) or time.monotonic() > end:
            return found
        time.sleep(0.05)


def _read(path: Path) -> OfflineRun:
    run = OfflineRun(path.parent)
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            run.job_type, run.tags = record.run.job_type, list(record.run.tags)
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif kind == "history":
            run.history.append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "summary":
            run.summary |= {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "alert":
            run.alerts.append(record.alert.title)
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
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
        checksum, length, kind = struct.unpack("<IHB", data[offset : offset + HEADER])
        chunk = data[offset + HEADER : offset + HEADER + length]
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        parts += chunk
        offset += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
