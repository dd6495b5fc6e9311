"""Yes or no about a passage: equal numbers of both, the first of both, long passages and other answers left out."""

from collections import Counter

import pytest
from test_one_file import FORM, written

from t2.tasks.yes_no import YesNo
from t2.types import Example

ROWS = [{"passage": f"p{n}", "question": "is it", "answer": "True" if n % 3 else "False"} for n in range(30)]


def examples(tmp_path, rows, **changes):
    task = YesNo("toy", FORM, written(tmp_path, rows), **{"val_size": 1, "test_size": 1, **changes})
    return [one for split in ("train", "val", "test") for one in task.split(split)]


@pytest.mark.parametrize(("balanced", "counts"), [(False, {"Yes": 20, "No": 10}), (True, {"Yes": 10, "No": 10})])
def test_answers_are_made_equally_frequent_where_asked(tmp_path, balanced, counts):
    assert Counter(one.answer for one in examples(tmp_path, ROWS, balanced=balanced)) == counts


@pytest.mark.parametrize("question", ["is it", "is it?", "Is it ?"])
def test_a_question_is_written_as_a_sentence(tmp_path, question):
    rows = [{"passage": f"p{n}", "question": question, "answer": "yes"} for n in range(3)]
    prompt = {one.prompt[2:] for one in examples(tmp_path, rows)}
    assert prompt == {"\n\nQuestion: Is it?"}


def test_the_first_yes_or_no_counts():
    task = YesNo("toy", FORM, {"all": "none.jsonl"})
    texts = ("Yes", "yes, not no", "No", "No. Yes.", "Yesterday", "")
    assert [task.score(Example("q", "Yes"), text) for text in texts] == [1, 1, 0, 0, 0, 0]


def test_long_passages_and_other_answers_are_left_out(tmp_path):
    other = [{**ROWS[0], "passage": "p" * 101}, {**ROWS[0], "passage": "q", "answer": "maybe"}]
    assert len(examples(tmp_path, ROWS + other, max_passage_chars=100)) == 30
