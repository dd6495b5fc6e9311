"""A mixture holds finite mixing weights, one row per expert, and normalizes them over the experts of each matrix."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from t2.experts.mixture import Mixture


def test_one_weight_per_expert() -> None:
    mixture = Mixture.of(1, -0.5, 2)
    assert mixture.weights == ((1.0,), (-0.5,), (2.0,))
    assert all(type(weight) is float for row in mixture.weights for weight in row)  # a file of it says 1.0
    assert mixture.rule == Mixture(((1.0,),)).rule == "delta"
    assert Mixture.of(1.0, rule="paper") == Mixture(((1.0,),), "paper") != Mixture.of(1.0)
    assert Mixture.base(3) == Mixture.of(0.0, 0.0, 0.0)


def test_mixtures_are_keys_that_cannot_be_edited() -> None:
    assert len({Mixture.of(1.0), Mixture.of(1.0), Mixture.of(2.0)}) == 2
    with pytest.raises(FrozenInstanceError):
        Mixture.of(1.0).rule = "paper"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), r"all of one length; got \(\)"),
        ((((), ()),), r"all of one length; got \(\(\), \(\)\)"),
        ((((1.0,), (1.0, 2.0)),), "all of one length"),
        ((((1.0, math.nan), (1.0, 1.0)),), "finite numbers; got .*nan"),
        ((((1.0,), (-math.inf,)),), "finite numbers; got .*-inf"),
        ((((1.0,),), "sum"), "mixing rule is 'sum'; allowed: delta, paper"),
    ],
)
def test_what_is_no_mixture_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)


@pytest.mark.parametrize(
    ("weights", "means", "normalized"),
    [
        (((1.0,), (3.0,)), (1.0, 3.0), ((0.25,), (0.75,))),
        (((1.0, 2.0), (3.0, -4.0)), (1.5, -0.5), ((0.25, -1.0), (0.75, 2.0))),
        (((-2.0,), (0.0,)), (-2.0, 0.0), ((1.0,), (0.0,))),  # a sum below zero is as good as any
        (((1e-12,),), (1e-12,), ((1.0,),)),  # the smallest sum
    ],
)
def test_means_and_shares(weights: Any, means: tuple[float, ...], normalized: Any) -> None:
    mixture = Mixture(weights, "paper")
    assert mixture.means == means
    assert mixture.normalized() == Mixture(normalized, "paper")


@pytest.mark.parametrize("weights", [((0.0,), (0.0,)), ((1.0, 1.0), (1.0, -1.0)), ((0.3,), (-0.1,), (-0.2,))])
def test_weights_that_sum_to_zero_for_a_matrix_have_no_shares(weights: Any) -> None:
    with pytest.raises(ValueError, match="sum to 0 cannot be normalized"):
        Mixture(weights).normalized()
