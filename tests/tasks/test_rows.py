"""Rows from files and from the hub, each way they can be wrong, and splits that share no question."""

import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.tasks.rows import DisjointSplits, carve_val, check_choice, load_rows, same_text
from t2.types import Example

ROWS = [{"question": "2020-01-01?", "answer": "1"}, {"question": "two", "answer": "2"}]
COLUMNS = ("question", "answer")


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"train": str(path)}


def read(data_files, split="train"):
    return [dict(row) for row in load_rows("org/set", None, split, COLUMNS, data_files)]


def test_json_and_jsonl_and_parquet_give_the_same_rows(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    assert read(written(tmp_path, "rows.json", json.dumps(ROWS))) == ROWS
    assert read(written(tmp_path, "rows.jsonl", "\n\n".join(map(json.dumps, ROWS)) + "\r\n")) == ROWS
    assert read({"train": str(tmp_path / "rows.parquet")}) == ROWS


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    assert read(written(tmp_path, "rows.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode())) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "{'a': 1}", "rows.json is not JSON"),
        ("rows.json", '{"a": 1}\n{"a": 2}', "suffix must be .jsonl"),
        ("rows.json", '{"question": 1}', "holds a JSON dict; a list of objects"),
        ("rows.json", "[1]", "entry 1, is a JSON int"),
        ("rows.json", b"\xff\xfe", "not JSON"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}\nhello', "line 2, is not JSON"),
        ("rows.jsonl", "[]", "line 1, is a JSON list"),
        ("rows.parquet", "no parquet", "is not a parquet file"),
        ("rows.csv", "question,answer", "suffix must be one of: .json, .jsonl, .parquet"),
        ("rows.json", "[]", "'train' of .* is empty"),
        ("rows.jsonl", "\n", "'train' of .* is empty"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.json, which is not a file"):
        read({"train": str(tmp_path / "gone.json")})


def test_a_missing_column_names_those_present_and_the_near_miss(tmp_path):
    rows = written(tmp_path, "rows.json", '[{"question": "a", "answers": "b"}]')
    with pytest.raises(ValueError, match=r"'answer' is missing in row 1.*question, answers.*mean 'answers'"):
        read(rows)


def test_a_column_missing_in_a_later_row_is_found(tmp_path):
    rows = written(tmp_path, "rows.jsonl", '{"question": "a", "answer": "b"}\n{"question": "c"}')
    with pytest.raises(ValueError, match="'answer' is missing in row 2"):
        read(rows)


def test_a_split_without_a_file_is_refused(tmp_path):
    rows = written(tmp_path, "rows.json", json.dumps(ROWS))
    with pytest.raises(ValueError, match=r"'trains'; allowed: train. Did you mean 'train'"):
        read(rows, "trains")


def hub(monkeypatch, result):
    def load_dataset(hub_id, config, *, split):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_rows_of_the_hub_are_handed_on_without_reading_them(monkeypatch):
    rows = datasets.Dataset.from_list(ROWS)
    hub(monkeypatch, rows)
    assert load_rows("org/set", "main", "train", COLUMNS) is rows


def test_a_column_missing_on_the_hub_is_an_error(monkeypatch):
    hub(monkeypatch, datasets.Dataset.from_list([{"question": "a", "anser": "b"}]))
    with pytest.raises(ValueError, match=r"'answer' is missing of split 'train' of org/set .*mean 'anser'"):
        load_rows("org/set", None, "train", COLUMNS)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'org/set' on the Hub"),
        datasets.exceptions.DatasetNotFoundError("Dataset 'org/set' doesn't exist on the Hub"),
        FileNotFoundError("Couldn't find any data file"),
    ],
)
def test_an_unreachable_hub_names_the_local_way(monkeypatch, error):
    hub(monkeypatch, error)
    with pytest.raises(ConnectionError, match=rf"'org/set' \(main\).*{error}.*task.data_files="):
        load_rows("org/set", "main", "train", COLUMNS)


def test_offline_mode_of_the_installed_library_is_caught(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ConnectionError, match=r"task.data_files="):
        load_rows("org/set-that-is-in-no-cache", None, "train", COLUMNS)


def test_an_unknown_split_of_the_hub_keeps_the_librarys_list(monkeypatch):
    hub(monkeypatch, ValueError("Unknown split \"val\". Should be one of ['train', 'test']."))
    with pytest.raises(ValueError, match=r"Split 'val' of 'org/set'.*one of \['train', 'test'\]"):
        load_rows("org/set", None, "val", COLUMNS)


def test_an_empty_split_of_the_hub_is_an_error(monkeypatch):
    hub(monkeypatch, datasets.Dataset.from_dict({"question": [], "answer": []}))
    with pytest.raises(ValueError, match=r"'test' of org/set .* is empty"):
        load_rows("org/set", None, "test", COLUMNS)


def test_a_wrong_choice_lists_the_allowed_ones():
    with pytest.raises(ValueError, match=r"protocol is 'ofical'; allowed: fixed, official. Did you mean 'official'"):
        check_choice("protocol", "ofical", ("official", "fixed"))


@given(st.lists(st.sampled_from("abcdefABC "), min_size=1), st.integers(1, 5), st.integers(0, 3))
def test_carving_loses_nothing_and_shares_nothing(rows, size, seed):
    if size >= len({same_text(row) for row in rows}):
        with pytest.raises(ValueError, match="val_size"):
            carve_val(rows, size, seed, str)
        return
    train, val = carve_val(rows, size, seed, str)
    assert sorted(train + val) == sorted(rows)
    assert len({same_text(row) for row in val}) == size
    assert not {same_text(row) for row in train} & {same_text(row) for row in val}


def test_carving_depends_on_the_seed_alone():
    rows = [str(number) for number in range(100)]
    assert carve_val(rows, 10, 0, str) == carve_val(rows, 10, 0, str)
    assert carve_val(rows, 10, 0, str) != carve_val(rows, 10, 1, str)


def splits(limit=None, **prompts):
    built = []

    def build(split):
        built.append(split)
        return [Example(prompt) for prompt in prompts[split].split(",")]

    return DisjointSplits("toy", build, limit), built


def test_test_wins_over_val_and_val_over_train():
    get, _ = splits(train="a,b,c", val="b,c,e", test="c,d")
    assert [[one.prompt for one in get(split)] for split in ("train", "val", "test")] == [
        ["a"],
        ["b", "e"],
        ["c", "d"],
    ]


def test_case_and_white_space_do_not_make_a_question_new():
    get, _ = splits(train="a  B ,c", val="x", test="A b")
    assert [one.prompt for one in get("train")] == ["c"]


def test_the_question_in_the_metadata_decides():
    rows = {"train": "p1", "val": "p2", "test": "p3"}
    get = DisjointSplits("toy", lambda split: [Example(rows[split], metadata={"question": "same"})])
    assert len(get("test")) == 1
    with pytest.raises(ValueError, match="'val' of toy is empty"):
        get("val")


def test_the_test_split_needs_no_other_rows():
    get, built = splits(test="a")
    assert len(get("test")) == 1
    assert built == ["test"]


def test_each_split_is_built_once():
    get, built = splits(train="a", val="b", test="c")
    for split in ("train", "val", "test", "train"):
        get(split)
    assert sorted(built) == ["test", "train", "val"]


def test_a_limit_cuts_after_the_splits_are_apart():
    get, _ = splits(limit=1, train="b,a,c", val="x,y", test="d,b")
    assert [one.prompt for one in get("train")] == ["a"]
    assert [one.prompt for one in get("test")] == ["d"]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit of toy is 0; allowed: at least 1"):
        splits(limit=0)
