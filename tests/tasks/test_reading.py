"""Reading: yes and no in equal numbers, spans by exact match, long passages left out."""

from collections import Counter

import pytest
from test_one_file import FORM, written

from t2.tasks.reading import Reading
from t2.types import Example


def built(tmp_path, rows, **changes):
    return Reading("toy", FORM, written(tmp_path, rows), **{"val_size": 1, "test_size": 1, **changes})


def examples(task):
    return [one for split in ("train", "val", "test") for one in task.split(split)]


def yes_no(count):
    return [{"passage": f"p{n}", "question": "is it", "answer": "True" if n % 3 else "False"} for n in range(count)]


def test_answers_are_made_equally_frequent_and_questions_are_sentences(tmp_path):
    whole, balanced = (built(tmp_path, yes_no(30), ask="yes_no", balanced=flag) for flag in (False, True))
    assert Counter(one.answer for one in examples(whole)) == {"Yes": 20, "No": 10}
    assert Counter(one.answer for one in examples(balanced)) == {"Yes": 10, "No": 10}
    assert examples(whole)[0].prompt.endswith("\n\nQuestion: Is it?")
    with pytest.raises(ValueError, match="balanced=true is for ask=yes_no"):
        built(tmp_path, [], ask="span", balanced=True)


def test_the_first_yes_or_no_counts(tmp_path):
    task = built(tmp_path, [], ask="yes_no")
    texts = ("Yes", "yes, not no", "No", "No. Yes.", "Yesterday", "")
    assert [task.score(Example("q", "Yes"), text) for text in texts] == [1, 1, 0, 0, 0, 0]


def test_a_span_is_compared_without_case_punctuation_and_articles(tmp_path):
    task = built(tmp_path, [], ask="span")
    texts = ("the Red fox.", "red  fox\nor so", "A red, fox", "red foxes", "it is a red fox", "", "the")
    assert [task.score(Example("q", "a red fox"), text) for text in texts] == [1, 1, 1, 0, 0, 0, 0]


def test_long_passages_and_answers_outside_of_the_passage_are_left_out(tmp_path):
    rows = [{"passage": f"a fox {n}", "question": "what", "answer": "fox"} for n in range(4)]
    other = [{**rows[0], "passage": "fox " * 30}, {**rows[0], "answer": "unknown"}, {**rows[0], "answer": "a"}]
    task = built(tmp_path, rows + other, ask="span", max_passage_chars=100)
    assert len(examples(task)) == 4
