"""Every grader decides each row of its table as was expected; the tables are large, balanced and without repeats."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction

import pytest
from grading_tables import TABLES, failing, repeated, rows_of, share_right

from t2.grading.answers import final_number, first_line, last_number, matching_word
from t2.grading.choice import choice_letter
from t2.grading.math.equality import MathGrader
from t2.grading.math.paper_equality import is_equiv
from t2.grading.stated_number import stated_number
from t2.grading.vqa import soft_accuracy


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_large_balanced_and_gives_reasons(name):
    rows = rows_of(name)
    assert len(rows) >= 200
    assert repeated(name) == []
    assert 0.3 <= share_right(name) <= 0.7
    assert all(row["reason"] for row in rows)
    assert {row.get("right", "yes") for row in rows} <= {"yes", "no"}


def test_mathematics():
    grader = MathGrader()
    with closing(grader), ThreadPoolExecutor(4) as threads:  # the verdicts are cached
        list(threads.map(lambda row: grader.equivalent(row["gold"], row["answer"]), rows_of("math")))
        assert failing("math", lambda row: grader.equivalent(row["gold"], row["answer"])) == ""


def test_the_papers_equality():
    assert failing("paper", lambda row: is_equiv(row["gold"], row["answer"])) == ""


def test_gsm8k():
    assert failing("gsm8k", lambda row: stated_number(row["answer"]) == Fraction(row["gold"])) == ""


def test_options():
    assert failing("choice", lambda row: choice_letter(row["answer"], "ABCD") == row["gold"]) == ""


def test_visual_questions():
    wrong = []
    for row in rows_of("vqa"):
        votes = [vote.rpartition("*") for vote in row["answers"].split("|")]
        answers = [text for text, _, count in votes for _ in range(int(count))]
        if abs(soft_accuracy(row["prediction"], answers) - float(row["score"])) > 1e-9:
            wrong.append(row)
    assert wrong == []


def _plain(row):
    rule, _, words = row["extract"].partition(" ")
    gold, text = row["gold"], row["answer"]
    if rule == "word":
        return matching_word(text, words.split("|")) == gold
    if rule == "line":
        return first_line(text).casefold() == gold
    if rule == "pair":
        return " and ".join(re.findall(r"\d+", text)[:2]) == gold
    return (last_number if rule == "number" else final_number)(text) == last_number(gold)


def test_numbers_words_and_lines():
    assert failing("plain", _plain) == ""
