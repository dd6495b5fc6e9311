"""Word problems: which answers are a number, and what a completion states."""

import pytest
from test_one_file import FORM, written

from t2.tasks.word_problems import WordProblems
from t2.types import Example


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("9 apples", "9"), ("9", "9"), ("1,250 dollars", "1250"), ("79.2 points", "79.2"), ("-3 degrees", "-3"),
        ("6 (cars)", "6"), ("Red", None), ("2:10", None), ("3:4", None), ("2 hours 5 minutes", None),
        ("27 years old; 9 years old", None), ("6th", None), ("1/2 cup", None),
    ],
)  # fmt: skip
def test_an_answer_is_one_number_with_its_unit_or_the_row_is_left_out(tmp_path, answer, gold):
    rows = [{"passage": f"p{index}", "question": "q", "answer": "1"} for index in range(3)]
    files = written(tmp_path, [*rows, {"passage": "p", "question": "q", "answer": answer}])
    task = WordProblems("toy", FORM, files, val_size=1, test_size=1)
    examples = [one for split in ("train", "val", "test") for one in task.split(split)]
    assert next((one.answer for one in examples if one.prompt == "p q"), None) == gold


def test_the_stated_number_counts_and_copying_numbers_has_a_chance(tmp_path):
    task = WordProblems("toy", FORM, {"all": "none.jsonl"})
    example = Example("7 red and 2 green ones. How many are red?", "7")
    assert [task.score(example, text) for text in ("The answer is 7 (not 2).", "7.0", "2", "")] == [1, 1, 0, 0]
    assert list(task.chance(example).values()) == [0.5, 0.0, 1.0, 0.0]
    assert set(task.chance(Example("Two. How many?", "2")).values()) == {0.0}


def test_a_turn_that_was_begun_says_which_number_is_meant():
    task = WordProblems("toy", FORM, {"all": "none.jsonl"})
    example = Example("How many?", "6", response_prefix="The answer is")
    assert [task.score(example, text) for text in (" 6 balloons (2 + 4)", " 4 and then 6")] == [1, 0]
