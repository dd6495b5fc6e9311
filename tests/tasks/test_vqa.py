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
IMAGE_FEATURE = datasets.Features(
    question=datasets.Value("string"),
    answers=datasets.List(datasets.Value("string")),
    image_id=datasets.Value("string"),
    question_id=datasets.Value("int32"),
    image=datasets.Image(),
)


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


def rows_of(folder, split, rows):
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_rows(folder, test, train=None, **changes):
    train = train or [a_row("t1"), a_row("t2"), a_row("t3")]
    files = {"train": rows_of(folder, "train", train), "test": rows_of(folder, "test", test)}
    return task(**{"val_images": 1, "data_files": files, **changes})


def example(*answers):
    return Example("q", most_frequent(answers), metadata={"answers": answers})


def image_ids(one, split):
    return {example.metadata["image_id"] for example in one.split(split)}


# Prompts.


def test_the_prompts_are_those_of_lmms_eval():
    assert task(capitalize=True).split("test")[4].prompt == (
        "What is written on the left door?\nAnswer the question using a single word or phrase."
    )
    template = (
        "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase."
    )
    assert okvqa(template=template).split("test")[0].prompt == (
        "What sport can you use this for?\nWhen the provided information is insufficient, respond with "
        "'Unanswerable'.\nAnswer the question using a single word or phrase."
    )


def test_a_question_is_shown_as_it_is_unless_capitalized():
    assert "LEFT door" in task().split("test")[4].prompt


def test_a_template_may_show_the_words_that_were_read_off_the_image():
    template = "{question}\nReference OCR token: {ocr_tokens}\nAnswer."
    shown = [one.prompt for one in task(template=template).split("test")]
    assert shown[4] == "what is written on the LEFT door?\nReference OCR token: PULL, PUSH\nAnswer."
    assert shown[5] == "what is the brand?\nReference OCR token: \nAnswer."


def test_braces_of_a_question_are_text(tmp_path):
    one = with_rows(tmp_path, [a_row(question="what is {0} {answers}?")])
    assert one.split("test")[0].prompt.startswith("what is {0} {answers}?\n")


def test_a_column_that_only_the_template_needs_may_be_missing_without_it(tmp_path):
    assert with_rows(tmp_path, [a_row()]).split("test")
    with pytest.raises(ValueError, match="Column 'ocr_tokens' is missing"):
        with_rows(tmp_path, [a_row()], template="{question} {ocr_tokens}").split("test")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Answer.", r"must hold \{question\}"), ("{questions}", "Did you mean 'question'"),
        ("{question} {answers}", "allowed: ocr_tokens, question"), ("{}", "a field in template of textvqa is ''"),
        ("{question", "expected '}'"), ("{question.upper}", "a field in template"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_filled_in_is_refused_at_once(template, message):
    with pytest.raises(ValueError, match=message):
        task(template=template)


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
def test_the_reference_is_what_most_people_mean_as_the_first_wrote_it(answers, best):
    assert most_frequent(answers) == best


def test_the_reference_of_a_row_is_that_answer():
    assert [one.answer for one in task().split("test")] == ["open", "closed", "lea's", "two", "push", "coca cola"]


@pytest.mark.parametrize(("votes", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (7, 1.0), (10, 1.0)])
def test_soft_accuracy_of_the_reference_is_a_matter_of_votes(votes, score):
    others = [f"other{n}" for n in range(10 - votes)]
    one = example(*["stop sign"] * votes, *others)
    assert task().score(one, "stop sign") == pytest.approx(score, abs=1e-12)
    assert (task().score(one, "stop sign") == 1.0) == (votes >= 4)


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text(), min_size=6, max_size=6))
def test_an_answer_of_four_people_scores_one_however_it_is_written(answer, others):
    answers = (answer,) * 4 + tuple(others)
    assert task().score(Example("q", "", metadata={"answers": answers}), most_frequent((answer,))) == 1.0


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("stop", Grade(1.0, None, "stop")), ("  Stop.\nIt is red.", Grade(1.0, None, "Stop.")),
        ("\n\n the stop \n", Grade(1.0, None, "the stop")), ("halt", Grade(0.6, "partial", "halt")),
        ("a red sign", Grade(0.0, "wrong", "a red sign")), ("red\nstop", Grade(0.0, "wrong", "red")),
        ("", Grade(0.0, "empty", None)), (" \n\t\r\n\x0b", Grade(0.0, "empty", None)),
    ],
)  # fmt: skip
def test_a_grade_says_what_was_judged_and_why(text, grade):
    one = example(*["stop"] * 6, *["halt"] * 2, "sign", "red light")
    got = task().grade(one, text)
    assert (got.score, got.reason, got.extracted) == (pytest.approx(grade.score), grade.reason, grade.extracted)
    assert task().score(one, text) == got.score


def test_an_empty_answer_is_never_right():
    assert task().grade(example("", "", "", "", "x"), "") == Grade(0.0, "empty")


@given(st.text())
def test_any_text_gets_a_score_of_a_known_kind(text):
    grade = task().grade(example(*["yes"] * 5, *["no"] * 5), text)
    assert 0.0 <= grade.score <= 1.0
    assert grade.reason in (None, "partial", "wrong", "empty")
    assert (grade.score == 1.0) == (grade.reason is None)


def test_grading_leaves_the_answers_alone():
    one = task().split("test")[1]
    before = list(one.metadata["answers"])
    task().score(one, "Closed.")
    assert list(one.metadata["answers"]) == before
    assert "Closed." in before


# Rows.


@pytest.mark.parametrize("answers", [[], [""] * 10, [" ", "\n"]])
def test_a_row_that_nobody_answered_is_named(tmp_path, answers):
    one = with_rows(tmp_path, [a_row(), a_row(question="where?", answers=answers)])
    with pytest.raises(ValueError, match=r"Row 1 of split 'test' of .*test\.jsonl has no answer.*'where\?'"):
        one.split("test")


@pytest.mark.parametrize("answers", ["yes", [1, 2], [{"answer": "yes"}], None])
def test_answers_of_another_shape_are_refused(tmp_path, answers):
    with pytest.raises(ValueError, match=r"answers of row 0 of .* a list of strings, one per person"):
        with_rows(tmp_path, [{**a_row(), "answers": answers}]).split("test")


def test_metadata_names_the_question_the_image_and_the_groups():
    assert dict(okvqa().split("test")[1].metadata) == {
        "id": "212025",
        "question": "In which country was this game first played?",
        "image_id": "21202",
        "answers": ("scotland",) * 8 + ("england",) * 2,
        "groups": {"question_type": "eight", "answer_type": "other"},
    }
    assert task().split("test")[1].metadata["id"] == "21"
    assert "groups" not in task().split("test")[1].metadata


def test_rows_without_a_question_id_are_named_by_their_place(tmp_path):
    rows = [{key: value for key, value in a_row(image).items() if key != "question_id"} for image in "ab"]
    assert [one.metadata["id"] for one in with_rows(tmp_path, rows).split("test")] == ["0", "1"]


@pytest.mark.parametrize("question_id", ["7", "x15", "", None, "-15", "1²"])
def test_a_question_id_that_holds_no_image_is_refused(tmp_path, question_id):
    with pytest.raises(ValueError, match=r"question_id of row 0 .* image_key=image_id"):
        with_rows(tmp_path, [a_row(question_id=question_id)], image_key="question_id").split("test")


def test_an_unknown_image_key_is_refused_at_once():
    with pytest.raises(ValueError, match="Did you mean 'image_id'"):
        task(image_key="imageid")


# Images.


def test_a_relative_path_is_seen_from_the_file_and_not_from_here(tmp_path, monkeypatch):
    shutil.copytree(ROWS / "textvqa", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    files = {split: f"data/{split}.jsonl" for split in ("train", "test")}
    one = task(data_files=files).split("test")[1].images[0].load()
    assert one.tobytes() == Image.open(ROWS / "textvqa/images/01b2.png").convert("RGB").tobytes()


def test_an_absolute_path_and_a_path_in_an_object_are_taken_as_they_are_meant(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here.png").write_bytes(png(1))
    (tmp_path / "elsewhere/there.png").write_bytes(png(2))
    images = [str(tmp_path / "elsewhere/there.png"), {"path": "here.png"}, {"bytes": None, "path": "here.png"}]
    split = with_rows(tmp_path, [a_row(str(n), image=one) for n, one in enumerate(images)]).split("test")
    assert [one.images[0].load().getpixel((0, 0))[0] for one in split] == [2, 1, 1]


def test_a_missing_image_is_an_error_when_it_is_looked_at_and_no_sooner(tmp_path):
    one = with_rows(tmp_path, [a_row(image="gone.png")]).split("test")[0]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        one.images[0].load()


def parquet(path, rows):
    datasets.Dataset.from_list(rows, features=IMAGE_FEATURE).to_parquet(path)
    return str(path)


def test_no_image_is_decoded_while_splits_are_built(tmp_path, monkeypatch):
    rows = [a_row(str(n), image={"bytes": b"broken", "path": None}) for n in range(4)]
    rows[3]["image"] = {"bytes": png(9), "path": None}
    path = parquet(tmp_path / "rows.parquet", rows)
    whole, decoded = datasets.Image.decode_example, []
    monkeypatch.setattr(
        datasets.Image, "decode_example", lambda *given, **more: decoded.append(1) or whole(*given, **more)
    )
    one = task(data_files={"test": path, "train": path})
    test = one.split("test")
    assert [example.metadata["image_id"] for example in test] == ["0", "1", "2", "3"]
    assert not decoded
    assert test[3].images[0].load().getpixel((0, 0)) == (9, 9, 9)
    assert len(decoded) == 1
    with pytest.raises(ValueError, match=r"row 1 of split 'test' of .*rows\.parquet cannot be decoded"):
        test[1].images[0].load()


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_a_parquet_column_of_paths_or_bytes_will_do(tmp_path, kind):
    (tmp_path / "one.png").write_bytes(png(5))
    rows = [a_row(str(n), image="one.png" if kind == "path" else png(5)) for n in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    one = task(data_files={"test": str(tmp_path / "rows.parquet")}).split("test")[1]
    assert one.images[0].load().getpixel((0, 0)) == (5, 5, 5)


def test_images_of_different_splits_or_files_are_different():
    train, test = (task().split(split)[0].images[0] for split in ("train", "test"))
    assert train != test
    assert test != okvqa().split("test")[0].images[0]
    assert test == task().split("test")[0].images[0]


# Splits.


@pytest.mark.parametrize("make", [task, okvqa])
@pytest.mark.parametrize("seed", range(4))
def test_no_image_stands_in_two_splits_and_its_questions_stay_together(make, seed):
    one = make(seed=seed)
    train, val, test = (image_ids(one, split) for split in SPLITS)
    assert not train & val
    assert not (train | val) & test
    assert 1 <= len(val) <= 2  # a image that is also in the test is dropped


def test_a_training_row_about_a_image_of_the_test_is_dropped_whatever_it_asks(tmp_path):
    train = [a_row("shared", "another?"), a_row("SHARED", "a third?"), a_row("t1"), a_row("t2")]
    one = with_rows(tmp_path, [a_row("shared", "what?")], train, val_images=1)
    assert image_ids(one, "train") | image_ids(one, "val") <= {"t1", "t2"}


def test_the_same_question_about_other_images_is_kept(tmp_path):
    one = with_rows(tmp_path, [a_row("a"), a_row("b")], [a_row("t1"), a_row("t2"), a_row("t3")])
    assert [len(one.split(split)) for split in SPLITS] == [2, 1, 2]


def test_another_seed_carves_another_val():
    assert len({frozenset(image_ids(task(seed=seed), "val")) for seed in range(6)}) > 1


def test_val_is_counted_in_images(tmp_path):
    with pytest.raises(ValueError, match=r"val_size is 3, .* allowed: 1 to 2"):
        with_rows(tmp_path, [a_row()], val_images=3).split("val")


# The hub.


@pytest.fixture
def hub(monkeypatch):
    """A hub with the data sets that a test puts on it; what was asked for is kept."""
    sets, asked = {}, []

    def load_dataset(hub_id, config, split):
        asked.append((hub_id, split))
        if hub_id not in sets:
            raise FileNotFoundError(f"no {hub_id}")
        return sets[hub_id]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return sets, asked


def dataset(*images):
    rows = [a_row(image, image={"bytes": png(), "path": None}, question_id=10 + n) for n, image in enumerate(images)]
    return datasets.Dataset.from_list(rows, features=IMAGE_FEATURE)


def test_the_hub_is_tried_in_order_and_tested_on_the_named_split(hub):
    sets, asked = hub
    sets["old/set"] = dataset("a", "b")
    one = task(data_files=None, hub_ids=["new/set", "old/set"])
    assert len(one.split("test")) == 2
    assert asked == [("new/set", "validation"), ("old/set", "validation")]
    assert one.about()["source"] == "old/set"
    assert one.about()["splits"]["validation"]["rows"] == 2


def test_train_may_be_on_another_data_set_of_the_hub(hub):
    sets, asked = hub
    sets["test/set"], sets["train/set"] = dataset("a", "b"), dataset("c", "d", "e")
    one = task(data_files=None, hub_ids="test/set", train_hub_ids=["train/set"], test_split="val2014", val_images=1)
    assert image_ids(one, "train") | image_ids(one, "val") == {"c", "d", "e"}
    assert asked == [("test/set", "val2014"), ("train/set", "train")]
    assert (one.about()["source"], one.about()["train"]["source"]) == ("test/set", "train/set")


def test_a_training_set_whose_columns_do_not_fit_is_refused(hub):
    sets, _ = hub
    sets["test/set"], sets["train/set"] = dataset("a"), dataset("b").rename_column("answers", "answer")
    one = task(data_files=None, hub_ids="test/set", train_hub_ids="train/set")
    with pytest.raises(ValueError, match=r"Column 'answers' is missing .*train/set.* Did you mean 'answer'"):
        one.split("train")


def test_data_files_stand_for_every_hub_id(hub):
    _, asked = hub
    one = okvqa(train_hub_ids="train/set")
    assert all(one.split(split) for split in SPLITS)
    assert not asked


def test_it_is_a_task_that_grades_and_says_what_it_is():
    one = task()
    assert isinstance(one, GradingTask)
    assert isinstance(one, DocumentedTask)
    one.split("test")
    about = json.loads(json.dumps(one.about()))
    assert about["source"] == "test.jsonl"
    assert about["template"] == TEMPLATE
    assert set(about["splits"]) == {"test"}
