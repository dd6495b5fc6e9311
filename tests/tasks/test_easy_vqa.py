"""easy-VQA: splits, kinds of questions, grading, and that its package is never imported."""

import importlib.metadata
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from t2.tasks import easy_vqa
from t2.tasks.base import SPLITS, DocumentedTask, GradingTask
from t2.tasks.easy_vqa import ANSWERS, EasyVQA
from t2.tasks.images import FileImage
from t2.types import Example, Grade


@pytest.fixture(scope="module")
def whole():
    return EasyVQA()


@pytest.fixture
def wheel(tmp_path):
    """A wheel of the package's layout with three training images and one test image."""
    path = tmp_path / "easy_vqa-1.0-py3-none-any.whl"
    questions = {
        "train": [
            *(["what color is the shape?", "red", n] for n in range(3)),
            ["what shape is present?", "circle", 0],
            ["is there a circle?", "no", 1],
        ],
        "test": [["what color is the shape?", "red", 0], ["is there a circle?", "yes", 0]],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for split, rows in questions.items():
            archive.writestr(f"easy_vqa/data/{split}/questions.json", json.dumps(rows))
            for image in {row[2] for row in rows}:
                with archive.open(f"easy_vqa/data/{split}/images/{image}.png", "w") as file:
                    Image.new("RGB", (4, 4), (image, len(split), 0)).save(file, "PNG")
    return path


def images(task, split):
    return {one.metadata["image_id"] for one in task.split(split)}


def example(answer):
    return Example("q", answer)


def test_the_sizes_are_those_of_the_data(whole):
    assert len(whole.split("test")) == 9673
    assert len(whole.split("train")) + len(whole.split("val")) == 38575
    assert [len(images(whole, split)) for split in SPLITS] == [3600, 400, 1000]


def test_no_image_stands_in_two_splits_and_ids_are_unique(whole):
    train, val, test = (images(whole, split) for split in SPLITS)
    assert not train & val
    assert not (train | val) & test
    ids = [one.metadata["id"] for split in SPLITS for one in whole.split(split)]
    assert len(set(ids)) == len(ids)


def test_an_image_is_that_of_its_question_and_the_package_is_never_imported(whole):
    one = whole.split("test")[0]
    assert one.metadata["image_id"] == "test/0"
    assert isinstance(one.images[0], FileImage)
    assert one.images[0].path.parts[-4:] == ("data", "test", "images", "0.png")
    assert one.images[0].load().size == (64, 64)
    assert "easy_vqa" not in sys.modules


def test_the_share_of_the_most_frequent_answer_is_as_the_conf_says(whole):
    answers = Counter(one.answer for one in whole.split("test"))
    assert answers.most_common(1) == [("yes", 3611)]
    spoken = Counter(one.answer for one in EasyVQA(kinds=["shape", "color"]).split("test"))
    assert (spoken.most_common(1), spoken.total()) == ([("rectangle", 450)], 2537)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shape", {"circle", "rectangle", "triangle"}),
        ("color", {"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"}),
        ("yes_no", {"yes", "no"}),
    ],
)
def test_a_kind_asks_for_its_words_only(kind, words):
    task = EasyVQA(kinds=[kind], limit=2000)
    assert {one.answer for one in task.split("test")} == words
    assert {one.metadata["groups"]["kind"] for one in task.split("test")} == {kind}


def test_all_kinds_together_have_the_answers_of_the_package(whole):
    assert {one.answer for one in whole.split("test")} == set(ANSWERS)
    assert len(set(ANSWERS)) == 13


@pytest.mark.parametrize(
    ("answer", "text", "grade"),
    [
        ("red", "red", Grade(1.0, None, "red")), ("red", "It is Red.", Grade(1.0, None, "red")),
        ("red", "red or blue", Grade(1.0, None, "red")), ("red", "blue, not red", Grade(0.0, "wrong", "blue")),
        ("yes", "no", Grade(0.0, "wrong", "no")), ("yes", "Yes, there is no doubt", Grade(1.0, None, "yes")),
        ("red", "redder", Grade(0.0, "no answer")), ("no", "nothing, none, not", Grade(0.0, "no answer")),
        ("no", "", Grade(0.0, "no answer")),
    ],
)  # fmt: skip
def test_the_word_named_first_counts(whole, answer, text, grade):
    assert whole.grade(example(answer), text) == grade
    assert whole.score(example(answer), text) == grade.score


def test_an_instruction_stands_below_the_question(wheel):
    task = EasyVQA(wheel=str(wheel), val_images=1, instruction="Answer with one word.")
    assert task.split("test")[0].prompt == "what color is the shape?\nAnswer with one word."
    assert task.split("test")[0].metadata["question"] == "what color is the shape?"


def test_the_questions_of_an_image_stay_together_and_the_same_one_may_be_asked_in_every_split(wheel):
    vals = set()
    for seed in range(8):
        task = EasyVQA(wheel=str(wheel), val_images=1, seed=seed)
        assert len(images(task, "val")) == 1
        assert not images(task, "val") & images(task, "train")
        assert len(task.split("val")) + len(task.split("train")) == 5
        assert all("what color is the shape?" in {one.prompt for one in task.split(split)} for split in SPLITS)
        vals.add(frozenset(images(task, "val")))
    assert len(vals) > 1


def test_a_wheel_is_read_without_being_installed(wheel, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(easy_vqa, "distribution", missing)
    task = EasyVQA(wheel=str(wheel), val_images=1)
    shown = {one.metadata["image_id"]: one.images[0].load().getpixel((0, 0)) for one in task.split("train")}
    assert all(color == (int(name[-1]), len("train"), 0) for name, color in shown.items())
    assert task.about()["version"] == "1.0"
    with pytest.raises(ModuleNotFoundError, match=r"transformer2\[vision\].* task\.wheel="):
        EasyVQA()


def test_a_wheel_that_is_none_is_refused_at_once(tmp_path, wheel):
    (tmp_path / "text.whl").write_text("no wheel")
    with pytest.raises(FileNotFoundError, match=r"gone\.whl, which is not a file"):
        EasyVQA(wheel=str(tmp_path / "gone.whl"))
    with pytest.raises(ValueError, match=r"text\.whl, which is no wheel file"):
        EasyVQA(wheel=str(tmp_path / "text.whl"))
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(FileNotFoundError, match="the wheel of easy-vqa is needed"):
        EasyVQA(wheel=str(tmp_path / "other.whl")).split("test")


@pytest.mark.parametrize(
    ("kinds", "message"), [(["colour"], "Did you mean 'color'"), ([], "kinds of easy_vqa is empty")]
)
def test_unknown_kinds_are_refused_at_once(kinds, message):
    with pytest.raises(ValueError, match=message):
        EasyVQA(kinds=kinds)


def test_about_describes_what_was_read(wheel):
    task = EasyVQA(wheel=str(wheel), val_images=1)
    assert task.about()["splits"] == {}
    task.split("train")
    about = json.loads(json.dumps(task.about()))
    assert {name: split["rows"] for name, split in about["splits"].items()} == {"train": 5, "test": 2}
    assert about["splits"]["train"]["fingerprint"] != about["splits"]["test"]["fingerprint"]
    assert str(Path(wheel).parent) not in json.dumps(about)


def test_it_is_a_task_that_grades_and_says_what_it_is(whole):
    assert isinstance(whole, GradingTask)
    assert isinstance(whole, DocumentedTask)
