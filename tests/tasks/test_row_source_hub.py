"""Rows of the hub: which data set is tried, and how data is described."""

import hashlib
import json

import datasets
import pytest

from tests.tasks.row_cases import COLUMNS, ROWS, hub, lines, on_hub, source, written

COMMIT = "e53f048856ff4f594e959d75785d2c2d37b678ee"
GONE = datasets.exceptions.DatasetNotFoundError("Dataset 'org/old' doesn't exist on the Hub")


def test_a_data_set_that_moved_is_found_under_its_next_id_and_copies_are_never_mixed(monkeypatch):
    asked = hub(monkeypatch, GONE, on_hub(), ConnectionError("no network"))
    moved = source(hub_ids=["org/old", "org/new", "org/other"])
    moved.rows("train", COLUMNS)
    assert asked == ["org/old", "org/new"]
    assert moved.describe()["source"] == "org/new"
    with pytest.raises(ConnectionError, match=r"Tried 'org/new' \(default\): no network"):
        moved.rows("test", COLUMNS)
    assert asked == ["org/old", "org/new", "org/new"]


def test_all_ids_that_were_tried_are_named(monkeypatch):
    hub(monkeypatch, GONE, ConnectionError("no network"))
    with pytest.raises(ConnectionError, match=r"'org/old' .*doesn't exist.*'org/new' .*no network.*task.data_files="):
        source(hub_ids=["org/old", "org/new"]).rows("train", COLUMNS)


def test_a_wrong_split_does_not_lead_to_another_copy(monkeypatch):
    asked = hub(monkeypatch, ValueError("Unknown split"), on_hub())
    with pytest.raises(ValueError, match="Unknown split"):
        source(hub_ids=["org/set", "org/copy"]).rows("val", COLUMNS)
    assert asked == ["org/set"]


def test_local_files_are_described_by_name_and_content_alone(tmp_path):
    content = lines(ROWS).encode()
    local = source(written(tmp_path, "rows.jsonl", content), config="main")
    assert local.describe() == {"source": None, "config": "main", "version": None, "splits": {}}
    local.rows("train", COLUMNS)
    described = local.describe()
    assert described["splits"] == {"train": {"rows": 2, "fingerprint": hashlib.sha256(content).hexdigest()}}
    assert described["source"] == "rows.jsonl"
    assert str(tmp_path) not in json.dumps(described)


def test_several_files_are_all_named(tmp_path):
    files = written(tmp_path, "a.json", json.dumps(ROWS)) | {"test": str(tmp_path / "b.jsonl")}
    (tmp_path / "b.jsonl").write_text(lines(ROWS[:1]))
    local = source(files)
    for split in ("train", "test"):
        local.rows(split, COLUMNS)
    assert local.describe()["source"] == "a.json, b.jsonl"
    assert {split: one["rows"] for split, one in local.describe()["splits"].items()} == {"test": 1, "train": 2}


@pytest.mark.parametrize(
    ("version", "checksums", "expected"),
    [
        (None, None, None),
        (datasets.Version("1.2.0"), None, "1.2.0"),
        (None, {f"hf://datasets/org/set@{COMMIT}/main/train.parquet": {"num_bytes": 1}}, COMMIT),
        (datasets.Version("0.0.0"), {f"hf://datasets/org/set@{COMMIT}/x": {}}, f"0.0.0@{COMMIT}"),
        (None, {"local/file.parquet": {}}, None),
    ],
)
def test_a_hub_data_set_is_described_by_its_version_and_commit(monkeypatch, version, checksums, expected):
    data = on_hub(version=version, checksums=checksums)
    hub(monkeypatch, data)
    described = source(config="main")
    described.rows("test", COLUMNS)
    assert described.describe() == {
        "source": "org/set",
        "config": "main",
        "version": expected,
        "splits": {"test": {"rows": 2, "fingerprint": data._fingerprint}},
    }
    assert json.loads(json.dumps(described.describe())) == described.describe()
