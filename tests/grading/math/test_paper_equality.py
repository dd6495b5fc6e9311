r"""The paper's equality, defects included: each rule, and texts at which the paper's code would end."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.math.paper_equality import is_equiv

PIECES = [
    "\\frac",
    "\\dfrac",
    "\\sqrt",
    "\\text{ ",
    "\\%",
    "^\\circ",
    "\\left(",
    "\\right)",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
]
PIECES += ["1", "12", "0.5", ".5", "50", "x", "=", "/", ",", " ", "-", "\n", "nan", "inf", "1_0", "²"]
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\frac{1}{2}", "\\dfrac12"),
        ("\\frac{1}{2}", "1/2"),
        ("\\frac{1}{2}", "0.5"),
        ("\\frac{1}{2}", ".5"),
        ("\\frac{3}{72}", "\\frac3{72}"),
        ("\\sqrt{3}", "\\sqrt3"),
        ("\\sqrt{3}", "\\sqrt 3"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("90^\\circ", "90"),
        ("10\\%", "10"),
        ("\\$5", "5"),
        ("5\\text{ cm}", "5"),
        ("5", "k = 5"),
        ("1,000", "1000"),
        ("10,\\!000", "10000"),
        ("3.0", "3"),
        ("(1.0,2)", "(1,2.0)"),
        ("[1,2]", "[1.0,2]"),
        ("{x}", "x"),
    ],
)
def test_meant_to_be_equal(gold, answer):
    assert is_equiv(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("25", "0.25"),
        ("0.25", "25"),
        ("10000", "10001"),
        ("1,2", "12"),
        ("(1,2)", "1,2"),
        ("ab", "a)b"),
        ("5\\text{ cm}", "5\\text{ m}"),
        ("(1,50)", "(100,0.50001)"),
        ("9" * 400, "8" * 400),  # both are infinite as floats
    ],
)
def test_equal_by_a_defect(gold, answer):
    assert is_equiv(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "6"),
        ("1", "1.001"),
        ("x+1", "1+x"),
        ("0.5", "50"),  # 0.5 has become a fraction before numbers are compared
        ("\\frac{1}{3}", "0.3333"),
        ("50%", "50"),
        ("Even", "even"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "(1,2,3)"),
        ("5", ""),
        ("nan", "1"),
    ],
)
def test_not_equal(gold, answer):
    assert not is_equiv(gold, answer)


@pytest.mark.parametrize("text", ["\\frac", "\\frac\\frac12", "\\sqrt", "\\sqrt\\sqrt2", "5\\text{ a}\\text{ b}"])
def test_what_the_stripping_cannot_read_is_compared_as_it_is(text):
    assert is_equiv(text, text)
    assert not is_equiv(text, text + "7")


@given(TEXT, TEXT)
def test_no_text_makes_it_raise(gold, answer):
    assert is_equiv(gold, answer) in (True, False)


@given(TEXT)
def test_a_text_equals_itself(text):
    assert is_equiv(text, text)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_for_integers_only_the_tolerance_and_the_factor_are_wrong(gold, answer):
    close = any(abs(gold * scale - answer) <= 1.01e-4 * max(abs(gold * scale), abs(answer)) for scale in (0.01, 1, 100))
    assert close or not is_equiv(str(gold), str(answer))


@pytest.mark.parametrize("piece", ["\\frac", "\\frac1", "\\sqrt", "\\sqrt{", "[", "(", "{", "1,", "=", " .", "9"])
def test_hostile_text_takes_bounded_time(piece):
    start = time.process_time()
    is_equiv(piece * 5_000 + "x", piece * 5_000 + "y")
    assert time.process_time() - start < 2.0


def test_nested_lists_take_no_stack():
    assert not is_equiv("[" * 2_000 + "1" + "]" * 2_000, "[" * 2_000 + "2" + "]" * 2_000)
