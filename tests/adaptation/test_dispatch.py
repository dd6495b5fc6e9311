"""Dispatch by prompt: what is asked, under which weights, and what each answer means."""

from __future__ import annotations

import math

import pytest

from t2.adaptation.dispatch import CONTENT_FREE, PromptDispatch, boxed_label
from t2.adaptation.strategy import PooledModel
from t2.experts.mixture import Mixture
from t2.tasks.dispatch import dispatch_example
from t2.types import OTHER
from tests.adaptation.dispatch_setup import DOMAINS, QUESTIONS, Scripted, choose, pooled

# What each answer means


def test_other_is_the_base_also_after_an_expert(planted):
    planted([[5.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 5.0, 0.0]])
    found = choose(PromptDispatch(calibrate=False))
    assert [choice.label for choice in found] == ["math", OTHER, "words"]
    assert [choice.mixture for choice in found] == [Mixture.of(1, 0), Mixture.base(2), Mixture.of(0, 1)]


def test_an_answer_that_cannot_be_read_is_the_base_also_after_an_expert():
    texts = [r"It is \boxed{words}.", r"\boxed{code}", "words"]
    found = choose(PromptDispatch("generate"), PooledModel(Scripted(pooled(), texts), pooled().pool))
    assert [choice.label for choice in found] == ["words", OTHER, OTHER]
    assert [choice.mixture for choice in found] == [Mixture.of(0, 1), Mixture.base(2), Mixture.base(2)]
    assert all(choice.scores == {} for choice in found)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (r"\boxed{math}", "math"),
        (r"so: \boxed{ Math } \boxed{words}", "math"),
        (r"\boxed{\text{math}}", "math"),
        (r"\boxed {\mathrm{math}.}", "math"),
        (r'\boxed{category: "math"}', "math"),
        (r"\boxed{other}", OTHER),
        (r"\boxed{category}", OTHER),
        (r"\boxed{math, words}", OTHER),
        (r"\boxed{math", OTHER),
        (r"boxed{math}", OTHER),
        (r"\boxed{}", OTHER),
        ("math", OTHER),
        ("", OTHER),
    ],
)
def test_reading_a_box(text, label):
    assert boxed_label(text, DOMAINS) == label


def test_soft_weights_are_the_labels_probabilities_and_the_rest_is_the_bases(planted):
    planted([[math.log(5), math.log(3), math.log(2)]])
    (choice,) = choose(PromptDispatch(soft=True, calibrate=False), examples=QUESTIONS[:1])
    assert choice.mixture.rule == "delta"
    assert choice.mixture.means == pytest.approx((0.5, 0.3))
    assert choice.label == "math"
    assert choice.scores == pytest.approx({"math": 0.5, "words": 0.3, OTHER: 0.2})


@pytest.mark.parametrize(
    ("scores", "temperature", "expected"),
    [
        ([1.0, 0.0, -0.2], 0.01, (1.0, 0.0)),
        ([1.0, 0.0, -0.2], 2.0, (0.465, 0.282)),
        ([1.0, 0.0, -0.2], 1e6, (1 / 3, 1 / 3)),
        ([-1e4, -1e4, 0.0], 1.0, (0.0, 0.0)),  # certain of other: the base
    ],
)
def test_the_temperature_sharpens_or_flattens(planted, scores, temperature, expected):
    planted([scores])
    (choice,) = choose(PromptDispatch(soft=True, calibrate=False, temperature=temperature), examples=QUESTIONS[:1])
    assert choice.mixture.means == pytest.approx(expected, abs=1e-2)
    assert (choice.mixture == Mixture.base(2)) == (expected == (0.0, 0.0))


def test_calibration_takes_off_what_a_model_answers_to_anything(planted):
    rows = [[0.0, -9.0, -5.0], [-2.0, -8.0, -5.0], [-2.0, -9.0, -3.0], [-1.0, -9.0, -5.0]]
    asked = planted(rows[:3])
    assert [choice.label for choice in choose(PromptDispatch(calibrate=False))] == ["math"] * 3
    planted(rows)
    assert [choice.label for choice in choose(PromptDispatch())] == ["math", "words", OTHER]
    assert asked[1] == [*asked[0], dispatch_example(CONTENT_FREE, DOMAINS).prompt]


def test_scores_that_are_no_numbers_are_refused(planted):
    planted([[0.0, float("nan"), 0.0]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose(PromptDispatch(calibrate=False), examples=QUESTIONS[:1])
