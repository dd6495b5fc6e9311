"""What each extractor reads and must not read, and that no adversarial text breaks or stalls it."""

import random
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.answers import boxed, final_number, first_line, last_number, listed_items, matching_word
from t2.grading.choice import choice_letter
from t2.grading.stated_number import stated_number

EXTRACTORS = {
    "last_number": last_number,
    "final_number": final_number,
    "boxed": boxed,
    "stated_number": stated_number,
    "choice_letter": lambda text: choice_letter(text, "ABCDEFGHIJ"),
    "matching_word": lambda text: matching_word(text, ["mother", "mother-in-law", "Yes", "ſ", "İ"]),
    "first_line": first_line,
    "listed_items": listed_items,
}
# Text made of the pieces the patterns look for reaches far more of them than random characters do.
PIECES = [
    "\\boxed", "\\fbox", "{", "}", "\\", "####", "#", "answer", " is ", ":", "(", ")", "A", "B", "I", "a",
]  # fmt: skip
PIECES += [
    "1", "23", "456", ",", ".", "-", "−", "$", " ", "\n", "mother", "-in-law", "yes", "e", "'", "\x00", "٣", "²",
]  # fmt: skip
JUNK = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", "72"), ("The answer is 72.", "72"), ("72.0", "72"), ("1,080", "1080"),
        ("so $1,234,567.50!", "1234567.5"), ("12,3456", "3456"), ("1, 80", "80"), ("it is -5", "-5"),
        ("it is −5", "-5"), ("-$5", "-5"), ("$-5", "-5"), ("\\$5", "5"), ("7-5", "5"), ("f(2)-5", "5"),
        ("from 10-20", "20"), ("7 - 5", "5"), ("4 - 9 = -5.", "-5"), (".5", "0.5"), ("-.5", "-0.5"),
        ("well...5", "5"), ("3.14.15", "15"), ("1{,}080", "1080"), ("10,\\!000", "10000"), ("007", "7"),
        ("**18**", "18"), ("50%", "50"), ("4.27e+02", "427"), ("2,100e-2", "21"), ("-5E3", "-5000"),
        ("5e−1", "0.5"), ("5e1234", "1234"), ("2 e3", "3"), ("5 eggs", "5"),
    ],
)  # fmt: skip
def test_last_number_reads(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "-", "$", ".", "five", "²", "٣"])
def test_last_number_finds_nothing(text):
    assert last_number(text) is None


def test_numbers_are_compared_exactly():
    assert last_number("0.1") != last_number("0.10000000000000000001")
    assert last_number("0.30") == last_number("0.3")
    digits = "9" * 6000  # int() and str() refuse as many
    assert last_number(digits) == last_number(digits + ".0")
    assert last_number(digits) != last_number(digits[:-1] + "8")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\\boxed{5} and then 7", "5"), ("\\boxed{1,080}", "1080"), ("\\boxed 5 and 7", "5"),
        ("\\boxed{x = -5}", "-5"), ("#### 5\nin 7 days", "5"), ("#### 3\n#### 5\n7", "5"), ("####5 of 7", "5"),
        ("#### -5", "-5"), ("#### $1,080", "1080"), ("\\boxed{3} #### 4", "3"), ("#### Step\n1 and 2", "2"),
        ("\\boxed{no number} but 7", "7"), ("\\boxed{5", "5"), ("only 7", "7"),
    ],
)  # fmt: skip
def test_final_number_prefers_what_is_marked(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"), ("\\boxed{\\frac{1}{2}} x", "\\frac{1}{2}"), ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"), ("\\boxed{\\boxed{5}}", "5"), ("\\boxed 5.", "5"), ("$\\boxed 5$", "5"),
        ("\\boxed {5}", "5"), ("\\fbox{5}", "5"), ("\\boxed{}", ""), ("\\boxed{5", None), ("\\boxed", None),
        ("\\boxedfoo{5}", None), ("boxed{5}", None),
    ],
)  # fmt: skip
def test_boxed(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Yes", "Yes"), ("yes, it does", "Yes"), ("NO!", "No"), ("No. Yes.", "No"), ("mother", "mother"),
        ("her mother-in-law", "mother-in-law"), ("grandmother", None), ("mother-to-be", None), ("mother's", "mother"),
        ("Nobody knows", None), ("", None),
    ],
)  # fmt: skip
def test_matching_word(text, word):
    assert matching_word(text, ["mother", "Yes", "No", "mother-in-law"]) == word


def test_words_may_hold_pattern_characters_and_there_may_be_none():
    assert matching_word("a+b", ["a+b", "(", ""]) == "a+b"
    assert matching_word("anything", []) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\n  htob \nmore", "htob"),
        ("'htob'.", "htob"),
        ("**htob**", "htob"),
        ("...\nhtob", "htob"),
        (": 'htob'", "htob"),
        ("", ""),
    ],
)
def test_first_line(text, line):
    assert first_line(text) == line


@pytest.mark.parametrize("name", EXTRACTORS)
@given(text=JUNK)
def test_never_raises(name, text):
    EXTRACTORS[name](text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_number_is_read_back_with_and_without_separators(number):
    assert last_number(f"It is {number:f}.") == number
    assert final_number(f"3 \\boxed{{{number:,f}}} 4") == number


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize(
    "piece",
    ["\\boxed{", "{", "\\", "1,", "111,", "9", "-", "####", "answer ", "answer:", "A ", " ", "mother-", ".5"],
)
def test_hostile_text_takes_bounded_time(name, piece):
    start = time.process_time()  # of this process: others may make it wait
    EXTRACTORS[name](piece * 20_000 + "x")
    assert time.process_time() - start < 2.0  # quadratic time would take minutes


def test_global_random_state_is_left_alone():
    before = random.getstate()
    for extract in EXTRACTORS.values():
        extract("the answer is (B) \\boxed{5} mother")
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['40', '4.0']", ("40", "4")), ("The list is: 40, 4.", ("40", "4")), ("40, 4]", ("40", "4")),
        ("[1] becomes [2, 3]", ("2", "3")), ("**A, b**\nc, d", ("a", "b")), ("[]", ()), ("4.50, 10.0", ("4.50", "10")),
        ("]\n", ()), ("", None), (" ..\n", None),
    ],
)  # fmt: skip
def test_the_items_of_a_list(text, items):
    assert listed_items(text) == items
