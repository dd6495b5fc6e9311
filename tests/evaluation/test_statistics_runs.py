"""Several runs against others on the same questions: intervals and p-values over runs and questions both."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from t2.evaluation.statistics import compare_runs, compare_scores

LOGITS_OF_QUESTIONS = 1.5  # their deviation


def test_runs_that_differ_as_a_whole_are_compared_by_their_means():
    """Questions tell nothing then: Student's t of one sample, with S - 1 degrees of freedom."""
    shifts, base = [0.5, 0.2, 0.35], [0.0] * 40
    found = compare_runs([[shift] * 40 for shift in shifts], [base] * 3)
    expected = stats.ttest_1samp(shifts, 0.0)
    assert found.difference == pytest.approx(0.35)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_equal_runs_are_compared_by_their_questions():
    rng = np.random.default_rng(0)
    scores, base = (rng.random((2, 60)) < [[0.6], [0.4]]).astype(float).tolist()
    found = compare_runs([scores] * 3, [base] * 3)
    expected = stats.ttest_rel(scores, base)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_both_count_and_what_they_share_counts_once():
    """By hand: means of runs 0.75 and 0.25, of questions 1 and 0; mean squares 0.25, 1 and 0.25, over S n = 4."""
    found = compare_runs([[1.0, 0.5], [1.0, -0.5]], [[0.0, 0.0]] * 2)
    variance, freedom = 0.0625 + 0.25 - 0.0625, 0.25**2 / (0.0625**2 + 0.25**2 + 0.0625**2)
    assert found.difference == 0.5
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 / variance**0.5, freedom))


@pytest.mark.parametrize(("runs", "deviation"), [(3, 0.4), (3, 0.1), (5, 0.4), (2, 0.2)])
def test_the_interval_holds_the_truth_as_often_as_it_says(runs: int, deviation: float):
    """Learned systems whose seeds differ, 0.4 in logits being 7 points: resampling 3 of them holds it in 84 of 100."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        questions = rng.normal(0, LOGITS_OF_QUESTIONS, 300)
        seeds = rng.normal(0, deviation, (2, runs, 1))
        scores = (rng.random((2, runs, 300)) < 1 / (1 + np.exp(-questions - seeds))).astype(float)
        low, high = compare_runs(*scores.tolist()).ci95
        held.append(low <= 0 <= high)
    assert np.mean(held) > 0.9


def test_what_neither_runs_nor_questions_explain_counts_by_itself():
    """Means of runs and of questions are equal; the rest's mean square is 1, over S n = 4."""
    found = compare_runs([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 2)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 / 0.25**0.5, 1))


def test_the_p_value_of_several_runs_says_what_their_interval_says():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.1, 0.2, 0.3):
        runs = [[float(one) for one in rng.random(60) < 0.4 + shift + spread] for spread in (-0.05, 0.0, 0.05)]
        base = [[float(one) for one in rng.random(60) < 0.4]] * 3
        found = compare_runs(runs, base)
        assert (found.p_value < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)


@pytest.mark.parametrize("count", [1, 3])
def test_without_a_difference_between_runs_and_questions_they_are_compared_as_scores_are(count: int):
    for scores, base in (([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), ([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])):
        assert compare_runs([scores] * count, [base] * count) == compare_scores(scores, base)


def test_one_run_is_compared_as_scores_are():
    scores, base = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert compare_runs([scores], [base]) == compare_scores(scores, base)
    with pytest.raises(ValueError, match="0 runs against 0; a comparison needs one or more"):
        compare_runs([], [])


def test_a_single_question_is_compared_by_the_runs():
    found = compare_runs([[1.0], [0.0], [1.0]], [[0.0]] * 3)
    assert found.p_value == pytest.approx(stats.ttest_1samp([1.0, 0.0, 1.0], 0.0).pvalue)
