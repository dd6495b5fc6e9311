"""TextVQA and OK-VQA: prompts, reference answers, soft accuracy with its reasons, and splits that share no image."""

import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2.tasks.base import SPLITS, DocumentedTask, GradingTask
from t2.tasks.vqa import VQA, most_frequent
from t2.types import Example, Grade

ROWS = Path(__file__).parent / "rows"
TEMPLATE = "{question}\nAnswer the question using a single word or phrase."
FEATURES = datasets.Features(
    question=datasets.Value("string"), answers=datasets.List(datasets.Value("string")),
    image_id=datasets.Value("string"), question_id=datasets.Value("int32"), image=datasets.Image(),
)  # fmt: skip


def task(name="textvqa", **changes):
    files = {split: str(ROWS / name / f"{split}.jsonl") for split in ("train", "test")}
    given = {"name": name, "template": TEMPLATE, "hub_ids": "org/set", "test_split": "validation", "val_images": 2}
    return VQA(**{**given, "data_files": files, **changes})


def okvqa(**changes):
    return task("okvqa", image_key="question_id", **changes)


def png(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def a_row(image_id="a", question="what?", answers=("x",) * 10, **more):
    row = {"image_id": image_id, "question_id": 1, "question": question, "answers": list(answers), "image": "no.png"}
    return {**row, **more}


def with_rows(folder, test, train=None, **changes):
    rows = {"train": train or [a_row("t1"), a_row("t2"), a_row("t3")], "test": test}
    for split in rows:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[split]))
    files = {split: str(folder / f"{split}.jsonl") for split in rows}
    return task(**{"val_images": 1, "data_files": files, **changes})


def image_ids(one, split):
    return {example.metadata["image_id"] for example in one.split(split)}


def color(example):
    return example.images[0].load().getpixel((0, 0))[0]


# Prompts.


def test_the_prompt_is_the_filled_in_template(tmp_path):
    tail = "\nAnswer the question using a single word or phrase."
    assert task(capitalize=True).split("test")[4].prompt == f"What is written on the left door?{tail}"
    assert task().split("test")[4].prompt == f"what is written on the LEFT door?{tail}"
    ocr = "{question}\nReference OCR token: {ocr_tokens}\nAnswer."
    shown = [one.prompt for one in task(template=ocr).split("test")]
    assert shown[4] == "what is written on the LEFT door?\nReference OCR token: PULL, PUSH\nAnswer."
    assert shown[5] == "what is the brand?\nReference OCR token: \nAnswer."
    braces = with_rows(tmp_path, [a_row(question="what is {0} {answers}?")]).split("test")[0]
    assert braces.prompt.startswith("what is {0} {answers}?\n")


def test_a_column_that_only_the_template_needs_may_be_missing_without_it(tmp_path):
    assert with_rows(tmp_path, [a_row()]).split("test")
    with pytest.raises(ValueError, match="Column 'ocr_tokens' is missing"):
        with_rows(tmp_path, [a_row()], template="{question} {ocr_tokens}").split("test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"template": "Answer."}, r"must hold \{question\}"),
        ({"template": "{questions}"}, "Did you mean 'question'"),
        ({"template": "{question} {answers}"}, "allowed: ocr_tokens, question"),
        ({"template": "{}"}, "a field in template of textvqa is ''"),
        ({"template": "{question"}, "expected '}'"),
        ({"template": "{question.upper}"}, "a field in template"),
        ({"image_key": "imageid"}, "Did you mean 'image_id'"),
    ],
)
def test_wrong_options_are_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        task(**wrong)


# Answers and grades.


@pytest.mark.parametrize(
    ("answers", "best"),
    [
        (["Nokia"] * 4 + ["nokia"] * 3 + ["the nokia"] + ["phone"] * 2, "Nokia"),
        (["phone"] * 4 + ["nokia"] * 3 + ["Nokia."] * 3, "nokia"),
        (["shut"] * 5 + ["closed"] * 5, "shut"),  # a tie: the first
        (["", "", "", "x", " "], "x"), (["two", "2", "3", "3"], "two"), (["a\nb", "a  b"], "a b"),
    ],
)  # fmt: skip
def test_the_reference_is_the_most_frequent_normalized_answer_as_first_written(answers, best):
    assert most_frequent(answers) == best


def test_the_reference_of_a_row_is_that_answer():
    assert [one.answer for one in task().split("test")] == ["open", "closed", "lea's", "two", "push", "coca cola"]


@pytest.mark.parametrize(("votes", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (7, 1.0), (10, 1.0)])
def test_soft_accuracy_of_the_reference_depends_on_its_votes(votes, score):
    answers = (*["stop sign"] * votes, *(f"other{n}" for n in range(10 - votes)))
    found = task().score(Example("q", "", metadata={"answers": answers}), "stop sign")
    assert found == pytest.approx(score, abs=1e-12)
    assert (found == 1.0) == (votes >= 4)


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text(), min_size=6, max_size=6))
def test_an_answer_of_four_people_scores_one_however_it_is_written(answer, others):
    answers = (answer,) * 4 + tuple(others)
    assert task().score(Example("q", "", metadata={"answers": answers}), most_frequent((answer,))) == 1.0


STOP = (*["stop"] * 6, *["halt"] * 2, "sign", "red light")


@pytest.mark.parametrize(
    ("answers", "text", "grade"),
    [
        (STOP, "stop", Grade(1.0, None, "stop")),
        (STOP, "  Stop.\nIt is red.", Grade(1.0, None, "Stop.")),
        (STOP, "\n\n the stop \n", Grade(1.0, None, "the stop")),
        (STOP, "halt", Grade(pytest.approx(0.6), "partial", "halt")),
        (STOP, "a red sign", Grade(0.0, "wrong", "a red sign")),
        (STOP, "red\nstop", Grade(0.0, "wrong", "red")),
        (STOP, "", Grade(0.0, "empty")),
        (STOP, " \n\t\r\n\x0b", Grade(0.0, "empty")),
        (("", "", "", "", "x"), "", Grade(0.0, "empty")),  # not even where people left the answer blank
    ],
)
def test_a_grade_says_what_was_judged_and_why(answers, text, grade):
    one = Example("q", "", metadata={"answers": answers})
    assert task().grade(one, text) == grade
    assert task().score(one, text) == grade.score
    assert one.metadata["answers"] == answers


@given(st.text())
def test_any_text_gets_a_score_of_a_known_kind(text):
    grade = task().grade(Example("q", "", metadata={"answers": ("yes",) * 5 + ("no",) * 5}), text)
    assert 0.0 <= grade.score <= 1.0
    assert grade.reason in (None, "partial", "wrong", "empty")
    assert (grade.score == 1.0) == (grade.reason is None)


# Rows.


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        *(({"answers": one}, {}, r"Row 0 of split 'test' of .*test\.jsonl has no answer.*'what\?'")
          for one in ([], [""] * 10, [" ", "\n"])),
        *(({"answers": one}, {}, r"answers of row 0 of .* a list of strings, one per person")
          for one in ("yes", [1, 2], [{"answer": "yes"}], None)),
        *(({"question_id": one}, {"image_key": "question_id"}, r"question_id of row 0 .* image_key=image_id")
          for one in ("7", "x15", "", None, "-15", "1²")),
    ],
)  # fmt: skip
def test_a_broken_row_is_refused(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        with_rows(tmp_path, [a_row() | changes, a_row("b")], **options).split("test")


def test_metadata_names_the_question_the_image_and_the_groups(tmp_path):
    assert dict(okvqa().split("test")[1].metadata) == {
        "id": "212025",
        "question": "In which country was this game first played?",
        "image_id": "21202",
        "answers": ("scotland",) * 8 + ("england",) * 2,
        "groups": {"question_type": "eight", "answer_type": "other"},
    }
    assert task().split("test")[1].metadata["id"] == "21"
    assert "groups" not in task().split("test")[1].metadata
    rows = [{key: value for key, value in a_row(image).items() if key != "question_id"} for image in "ab"]
    assert [one.metadata["id"] for one in with_rows(tmp_path, rows).split("test")] == ["0", "1"]


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
    with pytest.raises(ValueError, match=r"val_size is 3, .* allowed: 1 to 2"):
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
