"""The base and fixed mixtures: the mixture of every example, and choices that no pool could follow."""

from __future__ import annotations

import hydra
import pytest
from conftest import ROOT, LetterTask
from hydra.utils import instantiate
from tiny_models import original
from tiny_pool import make_expert

from t2.adaptation.fixed import Base, Fixed
from t2.adaptation.strategy import Choice, PooledModel, Strategy
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import save_mixture
from t2.policy.hf import HFGenerator
from t2.types import Example

EXAMPLES = [Example(prompt="a"), Example(prompt="b")]


@pytest.fixture
def model(pool) -> PooledModel:
    return PooledModel(HFGenerator(original()), pool)


@pytest.mark.parametrize(
    ("strategy", "mixture"),
    [
        (Base(), Mixture.of(0, 0, 0)),
        (Fixed(uniform=True), Mixture.of(1 / 3, 1 / 3, 1 / 3)),
        *[(Fixed(uniform=number), Mixture.of(*[number] * 3)) for number in (1.0, 1, 0.5, 0)],
        (Fixed(uniform=True, rule="paper"), Mixture.of(1 / 3, 1 / 3, 1 / 3, rule="paper")),
        (Fixed(weights={"logic": 0.5, "math": 2}), Mixture.of(2.0, 0.0, 0.5)),  # by domain; the others get 0
    ],
)
def test_every_example_gets_the_same_mixture_and_there_is_nothing_to_fit(strategy, mixture, model):
    assert isinstance(strategy, Strategy)
    strategy.fit(model, LetterTask(), [])
    assert strategy.choose(model, EXAMPLES) == [Choice(mixture)] * 2
    assert strategy.choose(model, []) == []


def test_uniform_is_one_over_k(pool):
    assert Fixed(uniform=True).mixture(pool.with_expert("d", make_expert(4))) == Mixture.of(*[0.25] * 4)


def test_normalized_weights_sum_to_1(pool):
    assert Fixed(weights={"math": 3.0, "code": 1.0}, normalize=True).mixture(pool) == Mixture.of(0.75, 0.25, 0.0)
    assert Fixed(uniform=2.0, normalize=True).mixture(pool).means == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_a_saved_mixture_keeps_its_own_rule(pool, tmp_path):
    mixture = Mixture(((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), (0.0, -1.0, 0.5)), "paper")
    path = save_mixture(tmp_path / "mixture.json", mixture, pool, strategy="few_shot", task="gcd", seed=0)
    assert Fixed(mixture=path).mixture(pool) == mixture
    assert Fixed(mixture=str(tmp_path)).mixture(pool) == mixture


def test_a_saved_mixture_that_cannot_be_used_is_refused(pool, tmp_path):
    with pytest.raises(FileNotFoundError, match="No mixture file"):
        Fixed(mixture=tmp_path / "mixture.json")
    path = save_mixture(tmp_path / "m.json", Mixture.base(3), pool, strategy="few_shot", task="gcd", seed=0)
    with pytest.raises(ValueError, match="made for other experts"):
        Fixed(mixture=path).mixture(pool.with_expert("code", make_expert(9)))
    with pytest.raises(ValueError, match="sum to 0 cannot be normalized"):
        Fixed(mixture=path, normalize=True).mixture(pool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of weights, uniform, mixture; got none"),
        ({"weights": {"math": 1.0}, "uniform": True}, "got weights and uniform"),
        ({"uniform": 0.0, "mixture": "m.json"}, "got uniform and mixture"),
        ({"weights": {}}, "weights is empty"),
        ({"weights": {"math": float("nan")}}, "finite numbers; got {'math': nan}"),
        ({"weights": {"math": float("inf")}}, "finite"),
        ({"uniform": float("nan")}, "finite"),
        ({"weights": {"math": 0.0}, "normalize": True}, "sum to 0 cannot be normalized"),
        ({"weights": {"math": 1.0, "code": -1.0}, "normalize": True}, "sum to 0 cannot be normalized"),
        ({"uniform": 0.0, "normalize": True}, "sum to 0 cannot be normalized"),
        ({"uniform": True, "rule": "papr"}, "strategy.rule is 'papr'; allowed: delta, paper"),
        ({"mixture": "m.json", "rule": "paper"}, "has its own rule"),
    ],
)
def test_choices_that_mean_nothing_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        Fixed(**options)


def test_an_unknown_domain_is_refused_with_a_hint(pool):
    with pytest.raises(ValueError, match=r"'maths'; the pool's domains are math, code, logic\. Did you mean 'math'"):
        Fixed(weights={"maths": 1.0}).mixture(pool)


# The YAML files


def built(name: str, *overrides: str) -> Strategy:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose(f"strategy/{name}", overrides=list(overrides))
    return instantiate(cfg.strategy)


def test_strategies_are_built_from_their_files(pool):
    assert built("base").name == "base"
    uniform, strategy = built("uniform"), built("fixed", "strategy.weights={math: 1.0, logic: 0.5}")
    assert (uniform.name, uniform.mixture(pool)) == ("uniform", Mixture.of(1 / 3, 1 / 3, 1 / 3))
    assert (strategy.name, strategy.mixture(pool)) == ("fixed", Mixture.of(1.0, 0.0, 0.5))
