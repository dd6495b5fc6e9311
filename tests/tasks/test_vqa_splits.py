"""TextVQA and OK-VQA: where images are, splits that share none, and data sets of the hub."""

import io
import json
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from t2.tasks.base import SPLITS, DocumentedTask, GradingTask
from tests.tasks.vqa_rows import ROWS, TEMPLATE, a_row, okvqa, task, with_rows

FEATURES = datasets.Features(
    question=datasets.Value("string"), answers=datasets.List(datasets.Value("string")),
    image_id=datasets.Value("string"), question_id=datasets.Value("int32"), image=datasets.Image(),
)  # fmt: skip


def png(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def image_ids(one, split):
    return {example.metadata["image_id"] for example in one.split(split)}


def color(example):
    return example.images[0].load().getpixel((0, 0))[0]


# Images.


def test_paths_are_relative_to_the_file_and_may_be_in_an_object(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here.png").write_bytes(png(1))
    (tmp_path / "elsewhere/there.png").write_bytes(png(2))
    images = [str(tmp_path / "elsewhere/there.png"), {"path": "here.png"}, {"bytes": None, "path": "here.png"}]
    split = with_rows(tmp_path, [a_row(str(n), image=one) for n, one in enumerate([*images, "gone.png"])]).split("test")
    assert [color(one) for one in split[:3]] == [2, 1, 1]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        split[3].images[0].load()
    shutil.copytree(ROWS / "textvqa", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    files = {split: f"data/{split}.jsonl" for split in ("train", "test")}
    one = task(data_files=files).split("test")[1].images[0].load()
    assert one.tobytes() == Image.open(ROWS / "textvqa/images/01b2.png").convert("RGB").tobytes()


def test_no_image_is_decoded_while_splits_are_built(tmp_path, monkeypatch):
    rows = [a_row(str(n), image={"bytes": b"broken", "path": None}) for n in range(4)]
    rows[3]["image"] = {"bytes": png(9), "path": None}
    path = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(path)
    whole, decoded = datasets.Image.decode_example, []
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **more: decoded.append(1) or whole(*a, **more))
    test = task(data_files={"test": path, "train": path}).split("test")
    assert [example.metadata["image_id"] for example in test] == ["0", "1", "2", "3"]
    assert not decoded
    assert color(test[3]) == 9
    assert len(decoded) == 1
    with pytest.raises(ValueError, match=r"row 1 of split 'test' of .*rows\.parquet cannot be decoded"):
        test[1].images[0].load()


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_a_parquet_column_of_paths_or_bytes_will_do(tmp_path, kind):
    (tmp_path / "one.png").write_bytes(png(5))
    rows = [a_row(str(n), image="one.png" if kind == "path" else png(5)) for n in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    assert color(task(data_files={"test": str(tmp_path / "rows.parquet")}).split("test")[1]) == 5


def test_images_of_different_splits_or_files_are_different():
    train, test = (task().split(split)[0].images[0] for split in ("train", "test"))
    assert train != test
    assert test != okvqa().split("test")[0].images[0]
    assert test == task().split("test")[0].images[0]


# Splits.


@pytest.mark.parametrize("make", [task, okvqa])
def test_no_image_stands_in_two_splits_and_its_questions_stay_together(make):
    vals = []
    for seed in range(4):
        train, val, test = (image_ids(make(seed=seed), split) for split in SPLITS)
        assert not train & val
        assert not (train | val) & test
        assert 1 <= len(val) <= 2  # an image that is also in test is dropped
        vals.append(frozenset(val))
    assert len(set(vals)) > 1


def test_a_train_row_is_dropped_by_its_image_and_not_by_its_question(tmp_path):
    train = [a_row("shared", "another?"), a_row("SHARED", "a third?"), a_row("t1"), a_row("t2")]
    one = with_rows(tmp_path, [a_row("shared", "what?")], train)
    assert image_ids(one, "train") | image_ids(one, "val") <= {"t1", "t2"}
    assert [len(with_rows(tmp_path, [a_row("a"), a_row("b")]).split(split)) for split in SPLITS] == [2, 1, 2]
    with pytest.raises(ValueError, match=r"val_images is 3, .* distinct images; allowed: 1 to 2"):
        with_rows(tmp_path, [a_row()], val_images=3).split("val")


# The hub.


@pytest.fixture
def hub(monkeypatch):
    """A hub with the data sets that a test adds, and the requests that it received."""
    sets, requests = {}, []

    def load_dataset(hub_id, config, split):
        requests.append((hub_id, split))
        if hub_id not in sets:
            raise FileNotFoundError(f"no {hub_id}")
        return sets[hub_id]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return sets, requests


def dataset(*images):
    rows = [a_row(image, image={"bytes": png(), "path": None}, question_id=10 + n) for n, image in enumerate(images)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def test_the_hub_is_tried_in_order_and_tested_on_the_named_split(hub):
    sets, requests = hub
    sets["old/set"] = dataset("a", "b")
    one = task(data_files=None, hub_ids=["new/set", "old/set"])
    assert len(one.split("test")) == 2
    assert requests == [("new/set", "validation"), ("old/set", "validation")]
    assert (one.about()["source"], one.about()["splits"]["validation"]["rows"]) == ("old/set", 2)


def test_train_may_be_in_another_data_set_with_the_same_columns(hub):
    sets, requests = hub
    sets["test/set"], sets["train/set"] = dataset("a", "b"), dataset("c", "d", "e")
    given = {"data_files": None, "hub_ids": "test/set", "test_split": "val2014", "val_images": 1}
    one = task(**given, train_hub_ids=["train/set"])
    assert image_ids(one, "train") | image_ids(one, "val") == {"c", "d", "e"}
    assert requests == [("test/set", "val2014"), ("train/set", "train")]
    assert (one.about()["source"], one.about()["train"]["source"]) == ("test/set", "train/set")
    sets["bad/set"] = dataset("b").rename_column("answers", "answer")
    with pytest.raises(ValueError, match=r"Column 'answers' is missing .*bad/set.* Did you mean 'answer'"):
        task(**given, train_hub_ids="bad/set").split("train")


def test_data_files_replace_every_hub_id(hub):
    _, requests = hub
    one = okvqa(train_hub_ids="train/set")
    assert all(one.split(split) for split in SPLITS)
    assert not requests


def test_is_a_task_that_grades_and_documents():
    one = task()
    assert isinstance(one, GradingTask)
    assert isinstance(one, DocumentedTask)
    one.split("test")
    about = json.loads(json.dumps(one.about()))
    assert (about["source"], about["template"], set(about["splits"])) == ("test.jsonl", TEMPLATE, {"test"})
