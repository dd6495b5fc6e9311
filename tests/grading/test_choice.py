"""Which letter a text chooses, beyond the table: articles, small letters, other sets of letters, any text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.choice import choice_letter

PIECES = [
    "A", "B", "I", "(", ")", "the answer is ", "answer: ", "not ", " is wrong", " is correct", " or ", " and ", ", ",
]  # fmt: skip
PIECES += ["\n", ". ", "\\boxed{", "}", "a", "(b)", "plant ", "Question:", "**", "İ", "\x00"]
JUNK = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B.", "B"), ("B. Shady areas", "B"), ("the answer is (C), not (A)", "C"),
        ("The answer is A.", "A"), ("the answer is A and that is that", None), ("A is right", "A"),
        ("Answer: **D**", "D"), ("answer\n\nB", "B"), ("the answer is option B because of A", "B"),
        ("the answer is (A). No, the answer is (B).", "B"), ("\\boxed{\\text{C}} the answer is (A)", "C"),
        ("answer is Because", None), ("A plant needs light", None), ("It is 25 °C", None), ("B-cells", None),
        ("CAB", None), ("I think so", None), ("E", None), ("b", "B"), ("I am sure, don't ask", None), ("", None),
    ],
)  # fmt: skip
def test_choice_letter(text, letter):
    assert choice_letter(text, "ABCD") == letter


@pytest.mark.parametrize(
    ("text", "letters", "letter"),
    [
        ("I think it is J", "ABCDEFGHIJ", "J"), ("I'm sure", "ABCDEFGHIJ", None),  # the pronoun
        ("the answer is (D)", "ABC", None), ("(A) (B) (C) (D)", "ABCD", "D"), ("A", "", None),
    ],
)  # fmt: skip
def test_choice_letter_among_given_letters(text, letters, letter):
    assert choice_letter(text, letters) == letter


@given(text=JUNK)
def test_a_chosen_letter_is_one_of_the_letters(text):
    assert choice_letter(text, "ABC") in {None, "A", "B", "C"}


@pytest.mark.parametrize("piece", ["A, ", "A and ", "not A ", "the answer is A ", "(A) ", "\n", "A is wrong ", "(a"])
def test_time_is_linear(piece):
    start = time.process_time()
    choice_letter(piece * 20_000 + "x", "ABCDEFGHIJ")
    assert time.process_time() - start < 5.0  # quadratic time would take minutes
