r"""Cheap equality is conservative and never costly; math-verify decides the rest, hostile answers only cost time."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2.grading.math.equality import MAX_CHARS, MathGrader, cheaply_equal, normalized

PIECES = [
    "\\frac", "\\dfrac", "\\sqrt", "\\text{", "\\left(", "\\right)", "\\%", "$", "^\\circ", "\\!", "{,}", "{", "}",
]  # fmt: skip
PIECES += ["1", "12", "000", "0.5", ".", ",", "/", "-", "x", "y", " ", "\n", "\x00", "²", "\ud800", "(", ")", "^", "!"]
TEXT = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
ATOMS = st.sampled_from(["x", "2", "0.5", "\\pi", "1,234", "\\text{cm}", "90^\\circ", "10\\%", "\\$5", "\\frac12"])
WELL_FORMED = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"\\dfrac{{{two[0]}}}{{{two[1]}}}"),
        st.tuples(inner, inner).map(lambda two: f"\\left({two[0]}, {two[1]}\\right)"),
        st.tuples(inner, inner).map(lambda two: " + ".join(two)),
        inner.map(lambda one: f"\\sqrt{{{one}}}"),
        inner.map(lambda one: f"$ {one} $."),
    ),
    max_leaves=6,
)
HOSTILE = ["9^{9^{9^9}}", "2^{10^{10}}", "99999999!", "\\int x^{x^{x^x}}", "(" * 200 + "1" + ")" * 200]


@pytest.fixture(scope="module")
def grader():
    grader = MathGrader()
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/4", "0.25"), ("\\frac14", "0.25"), ("\\dfrac{1}{4}", "\\tfrac14"), ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("\\frac{1}{-2}", "-0.5"), ("\\frac{2}{4}", "1/2"), (".5", "0.50"), ("+5", "5"), ("−5", "-5"), ("5.", "5"),
        ("-0", "0"), ("007", "7"), ("$5$", "5"), ("\\(5\\)", "5"), ("\\$5", "5"), ("50\\%", "50"),
        ("90^\\circ", "90°"), ("90^{\\circ}", "90"), ("1,234", "1234"), ("1{,}234", "1234"),
        ("11,\\! 111,\\! 100", "11111100"), ("$1,234.50", "1234.5"), ("\\text{east}", "east"),
        ("\\text{ (A)}", "(A)"), ("\\left( 1, 2 \\right)", "(1,2)"), ("5\\text{ cm}", "5 cm"),
        ("3 \\sqrt2", "3\\sqrt{2}"), ("x + 1", "x+1"), ("x\\,y", "x y"), ("x^2\n", "x^2"), ("1e3", "1000"),
        ("1 234", "1234"),
    ],
)  # fmt: skip
def test_cheaply_equal(a, b):
    assert cheaply_equal(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("(1,2)", "1,2"), ("(1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("1, 234", "1,234"),
        ("1 2", "12"), ("1$2", "12"), ("3^\\circ 4", "34"), ("k", "K"), ("1/3", "0.3333"), ("1/0", "2/0"),
        ("\\frac{1}{23}", "\\frac{12}{3}"), ("\\sqrt{12}", "\\sqrt12"), ("\\frac{1}{2}", "-\\frac{1}{2}"),
        ("٣", "3"), ("0.1", "0.10000000000000000001"), ("", ""), ("$", "."), ("x \\in t", "x\\int"),
        ("5 cm", "5 m"), ("1+1", "2"),
    ],
)  # fmt: skip
def test_not_cheaply_equal(a, b):
    assert not cheaply_equal(a, b)


@given(TEXT, TEXT)
def test_cheap_equality_takes_any_text_and_is_symmetric(a, b):
    assert cheaply_equal(a, b) == cheaply_equal(b, a)


@given(TEXT)
def test_a_text_cheaply_equals_itself_unless_nothing_is_left_of_it(text):
    assert cheaply_equal(text, text) == bool(normalized(text))


@given(WELL_FORMED)
def test_normalizing_twice_is_normalizing_once(text):
    assert normalized(normalized(text)) == normalized(text)


@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly(a, b):
    written = f"\\frac{{{b.numerator}}}{{{b.denominator}}}"
    assert cheaply_equal(f"{a.numerator}/{a.denominator}", written) == (a == b)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_separators_and_currency_do_not_change_a_number(number):
    assert cheaply_equal(f"\\${number:,f}", f"{number:f}")


@pytest.mark.parametrize(
    "piece", ["\\text{", "\\frac", "\\frac{1}", "{", "1,", "9", ",", " ", "$", "^", "\\", "((", "\\!"]
)
def test_cheap_rules_take_bounded_time(piece):
    start = time.process_time()
    cheaply_equal(piece * 20_000 + "x", piece * 20_000 + "y")
    assert time.process_time() - start < 2.0  # quadratic time would take minutes


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "1+x"), ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt 2}"),
        ("(x-1)(x+1)", "x^2-1"), ("x = 5", "5"), ("5", "x = 5"), ("1, 2", "2, 1"), ("(\\frac12, 3)", "(0.5,3)"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}"),
        ("\\text{Even}", "even"), ("5", "5 apples"), ("2 \\text{ or } 3", "2, 3"),
        ("0 \\le x \\le 1", "[0, 1]"),  # but not the other way round
    ],
)  # fmt: skip
def test_equivalent_expressions(grader, gold, answer):
    assert grader.equivalent(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("[0, 1]", "0 \\le x \\le 1"), ("x", "y"), ("\\frac{1}{3}", "0.333333"), ("(1,2)", "(2,1)"),
        ("\\text{ACB}", "ABC"), ("5", "I get 3 and then 5"), ("5", "the answer is 5"), ("5", "5 or 6"), ("5", ""),
        ("", "5"), ("", ""), ("x", "x}{"), ("5", "1/0"), ("5", "\\frac{"), ("5", "\\boxed{6} \\boxed{5}"),
    ],
)  # fmt: skip
def test_expressions_that_differ(grader, gold, answer):
    assert not grader.equivalent(gold, answer)


def test_plain_numbers_that_differ_need_no_process():
    grader = MathGrader()
    assert not grader.equivalent("\\frac{1}{2}", "\\frac{1}{3}")
    assert grader._pool is None


@settings(max_examples=30)
@given(gold=TEXT, answer=TEXT)
def test_no_text_makes_it_raise(grader, gold, answer):
    assert grader.equivalent(gold, answer) in (True, False)


@settings(max_examples=15)
@given(text=WELL_FORMED)
def test_a_reference_answers_itself(grader, text):
    assert grader.equivalent(text, text)


def test_hostile_answers_are_wrong_and_harm_no_other(grader):
    honest = [(f"x+{number}", f"{number}+x") for number in range(100, 130)]
    asked = [*(("5", text) for text in HOSTILE), *honest]
    start = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: grader.equivalent(*pair), asked))
    assert verdicts == [False] * len(HOSTILE) + [True] * len(honest)
    assert time.monotonic() - start < 5.0 * len(HOSTILE)  # less than one deadline after another


def test_a_hostile_answer_costs_its_time_once(grader):
    grader.equivalent("5", HOSTILE[0])
    start = time.monotonic()
    assert not any(grader.equivalent("5", HOSTILE[0]) for _ in range(50))
    assert time.monotonic() - start < 1.0


def test_a_long_text_is_not_read_as_an_expression(grader):
    start = time.monotonic()
    assert not grader.equivalent("x+1", "1+x" + "+0" * MAX_CHARS)
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("gold", ["5", "1,234", "x+1", "\\text{no solution}", "(1, 2]", "\\frac{\\pi}{2}"])
def test_references_that_can_be_graded(grader, gold):
    assert grader.can_parse(gold)


@pytest.mark.parametrize("gold", ["", "$", "\\frac{", "\\foo\\bar[", "x" * (MAX_CHARS + 1)])
def test_references_that_cannot_be_graded(grader, gold):
    assert not grader.can_parse(gold)


def test_a_closed_grader_starts_again():
    grader = MathGrader(workers=1)
    for _ in range(2):
        assert grader.equivalent("x+1", "1+x")
        grader.close()
        assert grader._pool is None


@pytest.mark.parametrize("wrong", [{"deadline_s": 0.0}, {"deadline_s": float("nan")}, {"workers": 0}])
def test_no_time_or_no_worker_is_refused(wrong):
    with pytest.raises(ValueError, match=r"allowed: more than 0 s, 1 or more"):
        MathGrader(**wrong)
