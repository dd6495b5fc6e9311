"""Contrasts between any two systems, and Holm's correction against a case worked out by hand."""

import pytest
from results_files import report_of

from t2.evaluation.contrasts import contrast
from t2.evaluation.results import Selection
from t2.evaluation.statistics import compare_runs, compare_scores, holm
from t2.evaluation.system_names import parse_contrast

BASE = [0, 0, 0, 0]
REPORTS = [report_of("base", BASE), report_of("base+prefix", [1, 0, 0, 0]), report_of("one", [1, 1, 1, 0])]
SELECTION = {"sums": Selection("val", 4, "base+prefix", None, {})}


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # the third is as large as the second
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_form_stands_for_the_control_that_was_chosen():
    (one,) = contrast(REPORTS, ["one - form"], SELECTION)
    assert (one.first, one.second, one.paired.difference) == ("one", "base+prefix", 0.5)
    assert one.p_holm == one.paired.p_value  # a family of one


def test_the_family_is_every_contrast_on_every_task():
    other = [report_of(report.system, report.scores, task="gcd") for report in REPORTS]
    found = contrast([*REPORTS, *other], ["one - base", "one - base+prefix"], {})
    assert [(one.task, one.contrast) for one in found] == [
        (task, name) for task in ("sums", "gcd") for name in ("one - base", "one - base+prefix")
    ]
    assert [one.p_holm for one in found] == holm([one.paired.p_value for one in found])
    assert found[0].p_holm > found[0].paired.p_value


@pytest.mark.parametrize("text", ["one", "one -base", "one - ", " - base", "one - one"])
def test_a_contrast_is_two_different_names(text):
    with pytest.raises(ValueError, match="not written as two different systems"):
        parse_contrast(text)


def test_systems_that_were_not_scored_alike_are_refused():
    with pytest.raises(ValueError, match=r"names 'ones', which is not scored on sums.*Did you mean 'one'"):
        contrast(REPORTS, ["ones - base"], SELECTION)
    with pytest.raises(ValueError, match="evaluated on 4 and 3 examples"):
        contrast([*REPORTS, report_of("few", [1, 0, 0])], ["one - few"], SELECTION)


def test_draws_of_a_control_stand_together_under_its_name():
    draws = [report_of("random_1:a", [1, 0, 0, 0]), report_of("random_2:a", [1, 1, 0, 0])]
    both, one = contrast([*REPORTS, *draws], ["one - random:a", "one - random_2:a"], {})
    assert (both.second, both.paired.difference) == ("random:a", 0.375)
    assert both.paired == compare_runs([[1, 1, 1, 0]] * 2, [draw.scores for draw in draws])
    assert one.paired.difference == 0.25
    with pytest.raises(ValueError, match="evaluated on 3 and 4 examples"):
        contrast([*REPORTS, draws[0], report_of("random_2:a", [1, 0, 0])], ["one - random:a"], {})


def test_numbers_of_draws_that_do_not_match_are_compared_by_their_means():
    draws = [report_of(f"random_{number}:a", row) for number, row in enumerate(([1, 0, 0, 0], [1, 1, 0, 0], BASE), 1)]
    sets = [report_of("few_shot#1", [1, 1, 1, 0]), report_of("few_shot#2", [1, 1, 0, 0])]
    (one,) = contrast([*REPORTS, *draws, *sets], ["few_shot - random:a"], {})
    assert one.paired == compare_scores([1, 1, 0.5, 0], [2 / 3, 1 / 3, 0, 0])
