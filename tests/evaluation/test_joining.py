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


def test_what_was_drawn_in_some_of_the_runs_is_compared_on_their_seeds() -> None:
    base: Draws = {"0": ONE, "1": HALF, "2": NONE}
    lone = joined(base=base, random={"1.1": NONE, "1.2": ONE})
    assert lone.pairs("t", "base", "random") == ([HALF, HALF], [NONE, ONE])
    several = joined(base=base, random={"1.1": NONE, "1.2": ONE, "2.1": ONE})
    assert several.pairs("t", "random", "base") == ([[0.5, 0.5], ONE], [HALF, NONE])
    assert several.pairs("t", "base", "random") == ([HALF, NONE], [[0.5, 0.5], ONE])


def test_another_number_of_draws_of_one_seed_is_compared_by_the_means() -> None:
    some = joined(few_shot={"0.1": ONE, "0.2": NONE}, random={"0.1": ONE, "0.2": HALF, "0.3": NONE})
    assert some.pairs("t", "few_shot", "random") == ([[0.5, 0.5]], [pytest.approx([2 / 3, 1 / 3])])
