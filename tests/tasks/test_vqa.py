"""TextVQA and OK-VQA: prompts, reference answers, soft accuracy with its reasons, and splits that share no image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.tasks.vqa import most_frequent
from t2.types import Example, Grade
from tests.tasks.vqa_rows import a_row, okvqa, task, with_rows

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
