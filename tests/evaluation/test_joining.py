"""Which rows of scores are compared with which, and what is one run."""

from __future__ import annotations

import pytest

from t2.evaluation.joining import Draws, Joined

ONE, NONE, HALF = [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]


def joined(**systems: Draws) -> Joined:
    return Joined({}, {"t": dict(systems)})


def test_sets_of_one_seed_are_runs_and_those_of_several_are_averaged_within_a_seed() -> None:
    lone = joined(search={"0.1": ONE, "0.2": NONE}, fixed={"0": HALF})
    assert lone.pairs("t", "search", "fixed") == ([ONE, NONE], [HALF, HALF])
    several = joined(search={"0.1": ONE, "0.2": NONE, "1.1": ONE, "1.2": HALF}, fixed={"0": HALF, "1": NONE})
    searched, fixed = [[0.5, 0.5], [1.0, 0.5]], [HALF, NONE]
    assert several.pairs("t", "search", "fixed") == (searched, fixed)
    assert several.pairs("t", "fixed", "search") == (fixed, searched)


def test_a_system_with_one_seed_stands_beside_each_of_the_others() -> None:
    form = joined(expert={"0": ONE, "1": HALF}, form={"0": NONE})
    assert form.pairs("t", "expert", "form") == ([ONE, HALF], [NONE, NONE])


def test_only_seeds_that_both_have_are_compared() -> None:
    some = joined(a={"0": ONE, "1": HALF, "2": NONE}, b={"1": ONE, "2": ONE})
    assert some.pairs("t", "a", "b") == ([HALF, NONE], [ONE, ONE])
    with pytest.raises(ValueError, match=r"a ran on t with the seeds 0, 1, and b with 2, 3"):
        joined(a={"0": ONE, "1": ONE}, b={"2": ONE, "3": ONE}).pairs("t", "a", "b")
