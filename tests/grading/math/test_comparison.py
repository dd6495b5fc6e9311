"""Taking answers apart: what is left to ask, that no text raises, and that hostile ones take bounded time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.math.comparison import MAX_ASKED, clean, equivalent

PIECES = [
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "{",
    "}",
    ",",
    "=",
    "x",
    "1",
    "0.5",
    "\\pm",
    " or ",
    "\\cup",
    "\\%",
    "^\\circ",
]
PIECES += [
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "\\text{",
    " cm",
    "<",
    "_2",
    ":",
    "\\boxed{",
    "½",
    "²",
    "\ud800",
]
TEXT = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))


def asked(gold, answer, verdict=True):
    pairs = []
    equivalent(clean(gold), clean(answer), lambda *pair: pairs.append(pair) or verdict)
    return pairs


def test_only_expressions_are_asked():
    assert asked("(x+1, 5)", "(1+x, 5.0)") == [("x+1", "1+x")]
    assert asked("5 \\text{ cm}", "5 km") == asked("(1,2)", "1,2") == asked("1/3", "0.333") == []
    assert asked("y = 2x+1", "1+2x") == [("2x+1", "1+2x")]


def test_a_list_of_expressions_asks_a_bounded_number_of_times():
    many = [", ".join(f"{letter}+{index}" for index in range(MAX_ASKED + 1)) for letter in "xy"]
    assert asked(*many) == []
    few = [", ".join(f"{letter}+{index}" for index in range(MAX_ASKED)) for letter in "xy"]
    assert len(asked(*few, verdict=False)) == MAX_ASKED


@given(TEXT, TEXT)
def test_no_text_makes_it_raise(gold, answer):
    assert equivalent(clean(gold), clean(answer), lambda *_: True) in (True, False)


@pytest.mark.parametrize("piece", [",%", "(", "\\{1,", "\\begin{pmatrix}", "1,", "\\text{a}", "x=", "\\pm", "a or "])
def test_hostile_text_takes_bounded_time(piece):
    text = piece * (500 // len(piece))
    start = time.process_time()
    equivalent(clean(text), clean(text[:-1]), lambda *_: True)
    assert time.process_time() - start < 2.0
