"""EvalAI's normalization with its quirks and without the source's defects, and the leave-one-out accuracy."""

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading import vqa
from t2.grading.vqa import normalize_answer, soft_accuracy

PIECES = [
    "a", "The", "two", "none", "thats", "that's", "'s", "cat", "5", ".", ",", "?", "-", "/", " ", "\n", "İ", "\x00",
]  # fmt: skip
TEXT = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Yes", "yes"), ("  yes \n", "yes"), ("the cat", "cat"), ("a an the", ""), ("two dogs", "2 dogs"),
        ("None", "0"), ("Ten", "10"), ("eleven", "eleven"), ("1,000", "1000"), ("what?", "what"), ("5.", "5"),
        ("5.5", "5.5"), ("u.s.a.", "usa"), (".5", ".5"), ("red\tand\nblue", "red and blue"), ("red-hot", "red hot"),
        ("red-hot - yes", "redhot yes"), ("red/blue", "red blue"), ("(red)", "red"), ("6:30", "6:30"),
        ("dont", "don't"), ("couldnt've", "couldn't've"), ("couldn'tve", "couldn't've"), ("twas", "'twas"),
        ("yall", "y'all"), ("somebody'd", "somebodyd"), ("man's", "man 's"), ("", ""),
    ],
)  # fmt: skip
def test_normalization(text, form):
    assert normalize_answer(text) == form


def test_normalizing_twice_is_not_the_same_as_once():
    once = normalize_answer("thats")
    assert (once, normalize_answer(once)) == ("that's", "that 's")  # a quirk of the source that is kept


def test_every_period_is_looked_at():
    assert normalize_answer("a.b" * 40) == "ab" * 40


@pytest.mark.parametrize("matches", range(11))
def test_ten_answers_give_a_third_of_a_point_per_match_less_the_one_left_out(matches):
    answers = ["yes"] * matches + ["no"] * (10 - matches)
    assert soft_accuracy("Yes.", answers) == pytest.approx(min(0.3 * matches, 1.0), abs=1e-12)


@given(st.lists(st.sampled_from(["x", "y", "z"]), min_size=4, max_size=14))
def test_it_is_the_mean_over_the_sets_without_one(answers):
    others = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    expected = mean(min(rest.count("x") / 3, 1.0) for rest in others)
    assert soft_accuracy("x", answers) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_what_all_annotators_say_is_right(count):
    assert soft_accuracy("cat", ["Cat"] * count) == 1.0
    assert soft_accuracy("cat", ["cat", "dog"]) == 0.5


def test_no_answers_are_refused():
    with pytest.raises(ValueError, match="without reference answers"):
        soft_accuracy("cat", [])


@given(TEXT, st.lists(TEXT, min_size=1, max_size=12))
def test_any_text_scores_between_0_and_1(prediction, answers):
    assert 0.0 <= soft_accuracy(prediction, answers) <= 1.0


@given(TEXT, st.lists(TEXT, min_size=1, max_size=12))
def test_the_order_of_annotators_does_not_matter(prediction, answers):
    assert soft_accuracy(prediction, answers) == soft_accuracy(prediction, answers[::-1])


def test_the_given_answers_stay_as_they_are():
    answers = ["The Cat", "A dog"]
    soft_accuracy("cat", answers)
    assert answers == ["The Cat", "A dog"]


def test_no_table_grows_with_use():
    before = {name: len(value) for name, value in vars(vqa).items() if isinstance(value, (dict, list, set))}
    for word in range(50):
        normalize_answer(f"word{word}")
    assert {name: len(getattr(vqa, name)) for name in before} == before
    assert before
