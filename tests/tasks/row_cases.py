"""Rows, files and a stand-in for the hub, for tests of row sources."""

import json

import datasets

from t2.tasks.row_source import RowSource

ROWS = [{"question": "2020-01-01?", "answer": "1"}, {"question": "two", "answer": "2"}]
COLUMNS = ("question", "answer")


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"train": str(path)}


def source(data_files=None, hub_ids="org/set", config=None):
    return RowSource(hub_ids, config, data_files, "toy")


def lines(rows):
    return "\n\n".join(map(json.dumps, rows)) + "\r\n"


def hub(monkeypatch, *results):
    """Let the hub answer one call after the other; the list of the ids asked for comes back."""
    asked, left = [], list(results)

    def load_dataset(hub_id, config, *, split):
        asked.append(hub_id)
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def on_hub(rows=ROWS, version=None, checksums=None):
    data = datasets.Dataset.from_list(rows) if rows else datasets.Dataset.from_dict({name: [] for name in COLUMNS})
    data.info.version, data.info.download_checksums = version, checksums
    return data
