"""The contract of strategies: in full for each class (and mode), and what a YAML can break for each of conf/strategy.

A new strategy joins by its YAML. Settings that it needs to be built, or that save work in tests, go into
tests/adaptation/overrides/NAME.yaml; the pool here has the domains `math` and `words`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import ROOT, LetterTask
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tiny_models import logits
from tiny_pool import pooled

from t2.adaptation.strategy import Choice, PooledModel, Strategy
from t2.types import OTHER, Example
from tests.adaptation.centroid_setup import with_centroids

OVERRIDES = Path(__file__).parent / "overrides"
EXAMPLES = [
    Example("1 + 1"),
    Example("How is tree spelled? It is a rather long question."),
    Example("hello there", system="be brief", response_prefix="So"),
    Example("1 + 1"),
]


@cache
def config(name: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        composed = compose(overrides=[f"+strategy={name}", "+seed=0"])
    overrides = OVERRIDES / f"{name}.yaml"
    if overrides.exists():
        composed.strategy = OmegaConf.merge(composed.strategy, OmegaConf.load(overrides))
    return composed


NAMES = sorted(path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml"))
CLASSES = {(config(name).strategy._target_, config(name).strategy.get("mode")): name for name in reversed(NAMES)}
each_file = pytest.mark.parametrize("name", NAMES)
each_class = pytest.mark.parametrize("name", sorted(CLASSES.values()))


def build(name: str) -> Strategy:
    return instantiate(config(name).strategy)


def a_model() -> PooledModel:
    return with_centroids(pooled("math", "words", dispatch=True, layers=2, context_length=4096))


def fitted(name: str, model: PooledModel) -> Strategy:
    strategy, task = build(name), LetterTask()
    strategy.fit(model, task, task.split("train")[:4])
    return strategy


@cache
def shared(name: str) -> tuple[Strategy, PooledModel]:
    """A strategy that has been fitted, and what it was fitted for."""
    model = a_model()
    return fitted(name, model), model


def assert_alike(choices: Sequence[Choice], others: Sequence[Choice]) -> None:
    for one, other in zip(choices, others, strict=True):
        assert one.label == other.label
        assert one.mixture.means == pytest.approx(other.mixture.means, abs=1e-4)


def test_the_files_make_strategies_of_distinct_names():
    assert {"base", "prompt", "classifier"} <= set(NAMES)
    assert set(CLASSES.values()) >= {"base", "classifier", "few_shot", "fixed", "prompt_generate"}
    names = [build(name).name for name in NAMES]
    assert len(set(names)) == len(names)
    assert all(names)


@each_file
def test_a_file_makes_a_strategy_whose_choices_the_pool_can_apply(name):
    strategy, model = shared(name)
    assert isinstance(strategy, Strategy)
    examples = [*EXAMPLES, *(Example(f"prompt number {i}") for i in range(20))]
    choices, labels = strategy.choose(model, examples), {*model.pool.experts, OTHER}
    assert len(choices) == len(examples)
    for choice in choices:
        weights, state = choice.mixture.weights, model.pool.state(choice.mixture)
        assert len(weights) == len(model.pool.experts)
        assert len(weights[0]) in (1, len(model.adapter.singular_values))
        assert state.keys() <= model.adapter.singular_values.keys()
        assert all(z.isfinite().all() for z in state.values())
        assert choice.label is None or choice.label in labels
        assert not choice.scores or set(choice.scores) == labels
        assert not choice.scores or sum(choice.scores.values()) == pytest.approx(1.0)
        hard = all(weight in (0.0, 1.0) for weight in choice.mixture.means)
        assert choice.label != OTHER or not hard or not any(choice.mixture.means)


@each_class
def test_an_example_is_chosen_for_alone_as_among_others_in_any_order_and_again(name):
    strategy, model = shared(name)
    together = strategy.choose(model, EXAMPLES)
    assert strategy.choose(model, EXAMPLES) == together
    assert strategy.choose(model, []) == []
    assert_alike(together, strategy.choose(model, EXAMPLES[::-1])[::-1])
    assert_alike(together[:1], together[3:])
    assert_alike(together, [strategy.choose(model, [example])[0] for example in EXAMPLES])


@each_class
def test_a_new_one_fitted_alike_chooses_alike(name):
    model = a_model()
    strategy, (other, fitted_for) = fitted(name, model), shared(name)
    assert_alike(strategy.choose(model, EXAMPLES), other.choose(fitted_for, EXAMPLES))


@each_class
def test_unfitted_it_chooses_or_says_that_it_must_be_fitted(name):
    message, choices = "", []
    try:
        choices = build(name).choose(shared(name)[1], EXAMPLES)
    except ValueError as error:
        message = str(error)
    assert "fit" in message or choices == shared(name)[0].choose(shared(name)[1], EXAMPLES)


@each_class
def test_what_the_adapter_has_learned_stays_and_does_not_matter(name):
    (strategy, model), learned = shared(name), a_model()
    learned.adapter.load(learned.pool.experts["words"].scales)
    before = logits(learned.lm)
    assert_alike(strategy.choose(learned, EXAMPLES), strategy.choose(model, EXAMPLES))
    fitted(name, learned)
    assert torch.equal(logits(learned.lm), before)


@each_class
def test_global_random_states_are_left_alone(name):
    before, torch_before = random.getstate(), torch.get_rng_state()
    fitted(name, shared(name)[1]).choose(shared(name)[1], EXAMPLES)
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)
