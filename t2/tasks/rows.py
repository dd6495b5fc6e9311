"""How rows get in, and how they are split: hub data sets or local files, and splits that share no question.

Every data set can be replaced by local JSON, JSONL or parquet files with the same columns (`data_files`),
which is what a machine without the hub needs. Nothing here knows what a row means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from t2.tasks.base import SPLITS, Split
from t2.types import Example

Row = Mapping[str, Any]
Item = TypeVar("Item")


def check_choice(what: str, got: str, allowed: Iterable[str]) -> None:
    """Raise ValueError, with a near miss named, unless `got` is one of `allowed`."""
    names = sorted(allowed)
    if got not in names:
        raise ValueError(f"{what} is {got!r}; allowed: {', '.join(names)}.{_did_you_mean(got, names)}")


def _did_you_mean(got: str, names: Iterable[str]) -> str:
    near = get_close_matches(str(got), list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def load_rows(
    hub_id: str,
    config: str | None,
    split: str,
    columns: Sequence[str],
    data_files: Mapping[str, str] | None = None,
) -> Sequence[Row]:
    """The rows of a split, from `data_files` (split -> local file) where given, else from the hub.

    Raises:
        ValueError: unknown split, a file that cannot be read as its suffix says, no rows, a missing column.
        FileNotFoundError: no such local file.
        ConnectionError: the hub, or the data set on it, cannot be reached.
    """
    if data_files is None:
        source, rows = f"{hub_id} ({config or 'default'})", _hub_rows(hub_id, config, split)
    else:
        check_choice("the split to read from data_files", split, data_files)
        path = Path(data_files[split])
        source, rows = str(path), _file_rows(path)
    if len(rows) == 0:
        raise ValueError(f"Split {split!r} of {source} is empty; at least one row is needed.")
    _check_columns(rows, columns, f"split {split!r} of {source}")
    return rows


def _check_columns(rows: Sequence[Row], columns: Sequence[str], source: str) -> None:
    names = getattr(rows, "column_names", None)  # a datasets.Dataset: looking at its rows would decode images
    for number, present in enumerate([names] if names is not None else rows, start=1):
        for column in columns:
            if column not in present:
                where = "" if names is not None else f" in row {number}"
                raise ValueError(
                    f"Column {column!r} is missing{where} of {source}; "
                    f"there are: {', '.join(present) or 'none'}. "
                    f"Rename the columns to {', '.join(columns)}.{_did_you_mean(column, present)}"
                )


def _hub_rows(hub_id: str, config: str | None, split: str) -> Sequence[Row]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows: Sequence[Row] = datasets.load_dataset(hub_id, config, split=split)
    except (ConnectionError, FileNotFoundError, HfHubHTTPError) as error:
        raise ConnectionError(
            f"The data set {hub_id!r} ({config or 'default'}) could not be had from the hub: {error}. "
            "Check the name, the network and HF_HUB_OFFLINE, or give local JSON, JSONL or parquet files with "
            f"the same columns: task.data_files={{{split}: PATH, ...}}"
        ) from error
    except ValueError as error:
        raise ValueError(f"Split {split!r} of {hub_id!r} ({config or 'default'}): {error}") from error
    return rows


def _file_rows(path: Path) -> Sequence[Row]:
    readers: dict[str, Callable[[Path], Sequence[Row]]] = {
        ".json": _json_rows,
        ".jsonl": _jsonl_rows,
        ".parquet": _parquet_rows,
    }
    if path.suffix not in readers:
        raise ValueError(f"data_files names {path}; its suffix must be one of: {', '.join(readers)}.")
    if not path.is_file():
        raise FileNotFoundError(f"data_files names {path}, which is not a file. Correct task.data_files.")
    return readers[path.suffix](path)


# JSON is read here and not by `datasets`, which would turn strings that look like dates into timestamps.
def _json_rows(path: Path) -> list[Row]:
    rows = _parse(path.read_bytes(), str(path), "Is it JSONL? Then its suffix must be .jsonl.")
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}; a list of objects is needed.")
    return [_as_row(row, f"{path}, entry {number},") for number, row in enumerate(rows, start=1)]


def _jsonl_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            source = f"{path}, line {number},"
            rows.append(_as_row(_parse(line, source, "Each line must be one JSON object."), source))
    return rows


def _parse(content: bytes, source: str, hint: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} is not JSON: {error}. {hint}") from error


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


def same_text(question: str) -> str:
    """The form in which two questions count as the same: case and runs of white space do not matter."""
    return " ".join(question.split()).casefold()


def carve_val(
    rows: Sequence[Item], size: int, seed: int, question: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Take `size` random questions, with all their rows, out: (the rest, those taken), both in order.

    Raises:
        ValueError: `size` is below 1, or as large as the number of distinct questions.
    """
    keys = [same_text(question(row)) for row in rows]
    distinct = list(dict.fromkeys(keys))
    if not 1 <= size < len(distinct):
        raise ValueError(
            f"val_size is {size}, to be taken out of {len(distinct)} distinct training questions; "
            f"allowed: 1 to {len(distinct) - 1}."
        )
    taken = set(Random(seed).sample(distinct, size))
    rest = [row for row, key in zip(rows, keys, strict=True) if key not in taken]
    return rest, [row for row, key in zip(rows, keys, strict=True) if key in taken]


def question_of(example: Example) -> str:
    """The question itself: `metadata["question"]` where a task keeps it, else the whole prompt."""
    return str(example.metadata.get("question", example.prompt))


class DisjointSplits:
    """Splits that share no question: test stays whole, val loses what test has, train what either has.

    A split is built when it is first asked for. `limit` cuts what is handed out, after the splits are apart.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[Split], Sequence[Example]],
        limit: int | None = None,
        question: Callable[[Example], str] = question_of,
    ) -> None:
        """`name` of the task for messages, `build` gives a split as it is in the data."""
        if limit is not None and limit < 1:
            raise ValueError(f"limit of {name} is {limit}; allowed: at least 1, or null for all rows.")
        self._name, self._build, self._limit, self._question = name, build, limit, question
        self._whole: dict[Split, tuple[Example, ...]] = {}

    def __call__(self, split: Split) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            ValueError: the split is unknown, or nothing is left of it.
        """
        check_choice(f"split of {self._name}", split, SPLITS)
        return self._get(split)[: self._limit]

    def _get(self, split: Split) -> tuple[Example, ...]:
        if split not in self._whole:
            earlier: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
            seen = {same_text(self._question(one)) for other in earlier[split] for one in self._get(other)}
            rows = self._build(split)
            kept = tuple(one for one in rows if same_text(self._question(one)) not in seen)
            if not kept:
                raise ValueError(
                    f"Split {split!r} of {self._name} is empty: all of its {len(rows)} questions are also in "
                    f"{' or '.join(earlier[split]) or 'nothing else'}. Give rows that differ."
                )
            self._whole[split] = kept
        return self._whole[split]
