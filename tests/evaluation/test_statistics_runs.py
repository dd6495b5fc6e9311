"""Several runs against others on the same questions: intervals and p-values over runs and questions both."""

from __future__ import annotations

import numpy as np
import pytest

from t2.evaluation.statistics import compare_runs, compare_scores


def test_runs_that_differ_widen_the_interval_of_their_average():
    """The average alone has the same score on every question, and would claim to know the difference exactly."""
    base, runs = [0.0] * 40, [[1.0] * 40, [0.0] * 40]
    assert compare_scores([0.5] * 40, base).ci95 == (0.5, 0.5)
    both = compare_runs(runs, [base] * len(runs))
    assert (both.difference, both.ci95) == (0.5, (0.0, 1.0))
    assert compare_scores([0.5] * 40, base).p_value < 1e-3
    assert both.p_value == pytest.approx(0.5, abs=0.03)  # a quarter of the draws has the run without a difference twice


def test_the_p_value_of_several_runs_says_what_their_interval_says():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.1, 0.2, 0.3):
        runs = [[float(one) for one in rng.random(60) < 0.4 + shift + spread] for spread in (-0.05, 0.0, 0.05)]
        base = [[float(one) for one in rng.random(60) < 0.4]] * 3
        found = compare_runs(runs, base)
        assert (found.p_value < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)


def test_one_run_is_compared_as_scores_are():
    scores, base = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert compare_runs([scores], [base]) == compare_scores(scores, base)
    with pytest.raises(ValueError, match="0 runs against 0; a comparison needs one or more"):
        compare_runs([], [])


def test_equal_runs_have_the_interval_of_one_up_to_the_draws():
    scores, base = [1.0, 0.0, 1.0, 1.0] * 25, [0.0, 0.0, 1.0, 0.0] * 25
    one, three = compare_scores(scores, base).ci95, compare_runs([scores] * 3, [base] * 3).ci95
    assert three == pytest.approx(one, abs=0.011)
