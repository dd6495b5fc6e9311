"""One file of rows: whole passages are sampled, all rows are asked once, unusable ones are counted out."""

import json

import pytest

from t2.tasks.form import Form
from t2.tasks.word_problems import WordProblems

FORM = Form(instruction="Number.", prefix="So:")


def written(tmp_path, rows):
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"all": str(path)}


def task(tmp_path, **changes):
    rows = [
        {"passage": f"There are {number} hens.", "question": question, "answer": f"{number} hens"}
        for number in range(12)
        for question in ("How many?", "Count them.")
    ]
    unusable = {"passage": "No hens.", "question": "Why?", "answer": "A fox"}
    files = written(tmp_path, [*rows, unusable])
    return WordProblems("hens", FORM, files, **{"val_size": 3, "test_size": 4, **changes})


def test_a_passage_is_in_one_split_with_all_its_questions(tmp_path):
    hens = task(tmp_path)
    groups = [[one.metadata["group"] for one in hens.split(split)] for split in ("test", "val", "train")]
    assert [len(of) for of in groups] == [8, 6, 10]
    assert [len(set(of)) for of in groups] == [4, 3, 5]
    assert len(set().union(*groups)) == 12


def test_the_seed_decides_what_is_in_a_split_and_the_limit_cuts_it(tmp_path):
    first, again, other = task(tmp_path), task(tmp_path), task(tmp_path, seed=1)
    assert first.split("test") == again.split("test") != other.split("test")
    assert task(tmp_path, val_size=1).split("test") == first.split("test")  # whatever the size of val
    assert task(tmp_path, limit=2).split("train") == first.split("train")[:2]


def test_rows_that_cannot_be_asked_about_are_left_out_and_counted(tmp_path):
    hens = task(tmp_path)
    hens.split("train")
    assert hens.about()["asked_rows"] == 24
    assert hens.about()["splits"]["all"]["rows"] == 25


def test_the_turn_is_begun_where_the_task_says_so(tmp_path):
    assert {one.response_prefix for one in task(tmp_path, begun=True).split("val")} == {"So:"}
    assert {one.response_prefix for one in task(tmp_path).split("val")} == {""}


def test_a_size_that_is_too_large_is_called_by_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"test_size is 12, .* 12 distinct passages .* allowed: 1 to 11"):
        task(tmp_path, test_size=12).split("test")
    with pytest.raises(ValueError, match=r"val_size is 8, .* 8 distinct passages .* allowed: 1 to 7"):
        task(tmp_path, val_size=8).split("val")
