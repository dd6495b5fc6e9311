"""Majority, paired comparisons and confusion matrices have the statistics that they claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb, isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2.evaluation.report import Report, compare
from t2.evaluation.statistics import (
    compare_scores,
    confusion_matrix,
    dispatch_accuracy,
    majority,
    row_shares,
    standard_error,
)
from t2.types import Completion, Example

COMPLETION = Completion(prompt_ids=(1,), token_ids=(2,), log_probs=(-0.5,), text="x", finish="stop")
LABELS = ("math", "code", "other")


def report(scores: Sequence[float], system: str = "expert") -> Report:
    examples = tuple(Example(prompt=str(i)) for i in range(len(scores)))
    completions = tuple(COMPLETION for _ in scores)
    return Report("task", system, examples, completions, tuple(map(float, scores)), None, {})


def paired_scores(wins: int, losses: int, ties: int) -> tuple[Report, Report]:
    return report([1] * wins + [0] * losses + [1] * ties), report([0] * wins + [1] * losses + [1] * ties, "base")


def test_one_question_has_its_difference_as_interval_and_no_standard_error():
    assert compare_scores([1.0], [0.25]).ci95 == (0.75, 0.75)
    assert isnan(standard_error([1.0]))
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)


def test_majority_is_the_share_of_the_most_frequent_answer():
    assert majority([Example("q", answer=a) for a in "ABBAB"]) == 0.6


def test_majority_is_unknown_when_any_answer_is():
    assert majority([Example("q", answer="A"), Example("q")]) is None


def test_majority_of_nothing():
    with pytest.raises(ValueError, match="no examples"):
        majority([])


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (1, 1, 1.0),  # 2 * 3/4, cut at 1
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(wins, losses, p_value):
    assert compare(*paired_scores(wins, losses, 3), resamples=1).p_value == pytest.approx(p_value, rel=1e-12)


@given(wins=st.integers(0, 60), losses=st.integers(0, 60))
@settings(max_examples=30)
def test_mcnemar_is_the_binomial_tail(wins, losses):
    n = wins + losses
    tail = sum(comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    made = compare(*paired_scores(wins, losses, 1), resamples=1)
    assert made.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_does_not_overflow_on_thousands():
    assert 0.0 <= compare(*paired_scores(2000, 1200, 0), resamples=1).p_value < 1e-40


@pytest.mark.parametrize("scores", [[0, 1, 1, 0], [0.2, 0.9, 0.5]])
def test_identical_reports_do_not_differ(scores):
    made = compare(report(scores), report(scores, "base"), resamples=50)
    assert (made.difference, made.ci95, made.p_value) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1]), ([0.5, 0.1, 1, 0.7], [0.2, 0.3, 0, 0.6])]
)
def test_swapping_the_reports_mirrors_the_result(a, b):
    one, other = compare(report(a), report(b), resamples=300), compare(report(b), report(a), resamples=300)
    assert other.difference == pytest.approx(-one.difference)
    assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
    assert other.p_value == one.p_value


def test_difference_is_that_of_the_means():
    a, b = report([0.5, 0.25, 1.0]), report([0.0, 0.75, 0.5], "base")
    assert compare(a, b, resamples=10).difference == pytest.approx(a.mean - b.mean)


def test_sign_flip_matches_its_closed_form():
    # All differences 0.5: only the 2 of 2**4 sign patterns that all agree are as extreme.
    made = compare(report([0.75] * 4), report([0.25] * 4), resamples=4000)
    assert made.p_value == pytest.approx(2 / 16, abs=0.02)


def test_one_fraction_among_zeros_and_ones_rules_out_mcnemar():
    made = compare(report([1] * 6 + [0.1]), report([0] * 7), resamples=1)
    assert made.p_value >= 0.5  # 1/2 or 1 with one resample; McNemar's would be 2/128


def test_sign_flip_counts_ties_despite_rounding():
    # 0.1 + 0.2 is not 0.3 in floats; in exact arithmetic each of these patterns ties with the observed one.
    made = compare(report([0.3, 0.1, 0.2]), report([0.0, 0.0, 0.0]), resamples=2000)
    assert made.p_value == pytest.approx(2 / 8, abs=0.03)


def test_sign_flip_is_never_zero():
    made = compare(report([0.9] * 40), report([0.1] * 40), resamples=99)
    assert made.p_value == pytest.approx(1 / 100)


def test_one_example_proves_nothing():
    assert compare(report([0.9]), report([0.1]), resamples=50).p_value == 1.0


def test_sign_flip_rejects_a_true_null_about_as_often_as_it_says():
    rng = torch.Generator().manual_seed(1)
    rejected = 0
    for seed in range(200):
        a, b = torch.rand(2, 15, generator=rng)
        rejected += compare(report(a.tolist()), report(b.tolist()), resamples=99, seed=seed).p_value <= 0.1
    assert 8 <= rejected <= 34  # 20 expected, standard deviation 4.2


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    rng = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        a, b = torch.rand(2, 60, generator=rng)
        ours, base = (a < 0.7).int().tolist(), (b < 0.5).int().tolist()
        low, high = compare(report(ours), report(base), resamples=200, seed=seed).ci95
        covered += low <= 0.2 <= high
    assert 178 <= covered <= 199  # 190 expected; percentile intervals of 60 examples are slightly short


def test_the_interval_has_the_width_of_the_normal_approximation():
    scores = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    made = compare(report(scores), report([0.0] * 400), resamples=3000)
    assert made.ci95[1] - made.ci95[0] == pytest.approx(2 * 1.96 * report(scores).stderr, rel=0.06)


def test_the_result_depends_on_the_seed_alone():
    a, b = report([0.5, 0.1, 1, 0.7]), report([0.2, 0.3, 0, 0.6])
    first = compare(a, b, resamples=60, seed=3)
    torch.manual_seed(99)
    assert compare(a, b, resamples=60, seed=3) == first
    assert compare(a, b, resamples=60, seed=4) != first


def test_comparing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    compare(report([0.5, 0.1]), report([0.2, 0.3]), resamples=5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (replace(report([1, 0]), system="base", examples=(Example("0"), Example("another"))),
         r"expert and base .* number 1 is '1' and 'another'"),
        (replace(report([1, 0]), examples=report([1, 0]).examples[::-1]), "same order"),
        (report([1, 0, 1]), "2 and 3 examples"),
        (replace(report([1, 0]), task="other"), "different tasks: task and other"),
    ],
)  # fmt: skip
def test_reports_of_different_examples_are_refused(base: Report, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(report([1, 0]), base)


@pytest.mark.parametrize("resamples", [0, -1])
def test_no_resamples(resamples):
    with pytest.raises(ValueError, match=f"resamples is {resamples}; allowed: at least 1"):
        compare(report([1]), report([0]), resamples=resamples)


def test_rows_are_true_and_columns_chosen() -> None:
    counts = confusion_matrix(["math", "math", "code"], ["code", "math", "other"], LABELS)
    assert counts == ((1, 1, 0), (0, 0, 1), (0, 0, 0))


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS))))
def test_every_prompt_is_counted_once(pairs: list[tuple[str, str]]) -> None:
    true, chosen = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    counts = confusion_matrix(true, chosen, LABELS)
    assert [sum(row) for row in counts] == [true.count(label) for label in LABELS]
    assert [sum(column) for column in zip(*counts, strict=True)] == [chosen.count(label) for label in LABELS]
    right = sum(a == b for a, b in pairs)
    assert dispatch_accuracy(counts) == (pytest.approx(right / len(pairs)) if pairs else None)


def test_shares_of_a_domain_without_prompts_are_unknown() -> None:
    assert row_shares(((1, 3), (0, 0))) == ((0.25, 0.75), (None, None))


def test_a_chosen_label_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"'mth' is no label; allowed: math, code, other. Did you mean 'math'"):
        confusion_matrix(["math"], ["mth"], LABELS)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 true domains for 1"):
        confusion_matrix(["math", "math"], ["code"], LABELS)


def test_a_label_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="one twice"):
        confusion_matrix([], [], ("math", "math"))
