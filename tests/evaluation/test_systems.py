"""The systems of a pool: which there are, under which name, and on which tasks they are scored."""

from __future__ import annotations

import itertools
import re
from typing import get_args

import pytest
import torch

from t2.adaptation.fixed import Base, Fixed
from t2.evaluation.system_names import CONTROLS, draw_of, is_scored, joined_name, parse_control
from t2.evaluation.systems import name_strategies, pool_systems
from t2.experts.mixture import Mixture
from t2.experts.transfer import Control
from t2.types import Sampling

SAMPLING = Sampling(max_new_tokens=4)
MINE = Fixed(weights={"math": 0.5}, name="mine")


def test_every_control_is_known_by_its_name() -> None:
    assert get_args(Control) == CONTROLS


def test_singles_uniform_and_strategies_have_names_in_this_order(generator, pool) -> None:
    systems = pool_systems(generator, pool, {"mine": MINE})
    assert list(systems) == ["expert:math", "expert:letters", "uniform", "all", "mine"]


def test_singles_and_uniform_can_be_left_out(generator, pool) -> None:
    assert list(pool_systems(generator, pool, {"mine": MINE}, singles=False, uniform=False, all_at_1=False)) == ["mine"]


def test_a_strategy_called_uniform_takes_the_place_and_base_adds_nothing(generator, pool) -> None:
    mine = Fixed(uniform=0.7, name="uniform")
    systems = pool_systems(generator, pool, {"uniform": mine, "base": Base()}, singles=False, all_at_1=False)
    assert list(systems) == ["uniform"]
    assert systems["uniform"].strategy is mine


def test_single_experts_and_uniform_answer_as_their_merged_weights(generator, pool, letter_task) -> None:
    examples = letter_task.split("val")
    systems = pool_systems(generator, pool, {})
    weights = {"expert:math": (1, 0), "expert:letters": (0, 1), "uniform": (0.5, 0.5), "all": (1, 1)}
    answers = {}
    for name, weight in weights.items():
        merged = generator.with_state(pool.state(Mixture.of(*weight))).generate(examples, SAMPLING)
        answers[name] = [group[0].token_ids for group in merged]
        assert [group[0].token_ids for group in systems[name].generate(examples, SAMPLING)] == answers[name]
    assert answers["expert:math"] != answers["expert:letters"]  # else the test could not fail


def test_strategies_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Two strategies are called 'mine'.*\+strategy@strategies.NAME"):
        name_strategies(MINE, {"mine": MINE})


@pytest.mark.parametrize(
    "name", ["expert", "expert:math", "base", "base+shots", "oracle", "best_single", "form", "random_1:a", "few_shot#2"]
)
def test_names_of_other_systems_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"No strategy may be called '{name}'")):
        name_strategies(None, {name: MINE})


def test_the_single_strategy_comes_first() -> None:
    assert list(name_strategies(MINE, {"b": Base(), "a": Base()})) == ["mine", "b", "a"]


@pytest.mark.parametrize(
    ("system", "domain", "scored"),
    [
        (f"{control}:math", *case)
        for control in ("reversed", "shuffled_2")
        for case in (("math", True), ("letters", False), (None, True))
    ]
    + [(system, "letters", True) for system in ("base", "expert:math", "uniform", "mine")],
)
def test_a_control_is_scored_on_its_own_domain_alone(system: str, domain: str | None, scored: bool) -> None:
    assert is_scored(system, domain) is scored


def test_controls_that_chance_decides_are_drawn_several_times_and_by_the_seed(generator, pool) -> None:
    def scales_of(seed: int = 0) -> dict[str, torch.Tensor]:
        systems = pool_systems(
            generator, pool, {}, singles=False, uniform=False, all_at_1=False,
            controls=["reversed", "random"], control_draws=2, seed=seed,
        )  # fmt: skip
        domains = {name: name.rpartition(":")[2] for name in systems}
        return {name: next(iter(one.pool.experts[domains[name]].scales.values())) for name, one in systems.items()}

    first, again, other = scales_of(), scales_of(), scales_of(seed=1)
    assert list(first) == [f"{control}:{d}" for control in ("reversed",) for d in pool.domains] + [
        f"random_{draw}:{d}" for d in pool.domains for draw in (1, 2)
    ]
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [of[f"random_{draw}:math"] for of in (first, other) for draw in (1, 2)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    assert parse_control("random_12:a:b_3") == ("random", 12, "a:b_3")
    assert parse_control("expert:math") is None


@pytest.mark.parametrize(
    ("system", "joined", "draw"),
    [
        ("few_shot#12", "few_shot", 12),
        ("few_shot", "few_shot", None),
        ("expert:math#2", "expert:math#2", None),  # a domain may be called so
        ("random_2:a", "random:a", 2),
        ("reversed:a", "reversed:a", None),
    ],
)
def test_draws_and_support_sets_are_joined_under_the_name_without_the_number(system, joined, draw) -> None:
    assert (joined_name(system), draw_of(system)) == (joined, draw)
