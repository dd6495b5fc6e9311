"""What every strategy promises, checked for each file of conf/strategy.

A new strategy joins by its YAML. One that needs settings to be built, or less work to be tested, says them in
tests/strategies/overrides/NAME.yaml; the pool here has the domains `math` and `words`.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import LetterTask
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from t2.adaptation.strategy import PooledModel, Strategy
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.types import OTHER, Example

CONF = Path(__file__).parents[2] / "conf"
OVERRIDES = Path(__file__).parent / "overrides"
NAMES = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
EXAMPLES = [
    Example("1 + 1"),
    Example("How is tree spelled? It is a rather long question."),
    Example("hello there", system="be brief", response_prefix="So"),
    Example("1 + 1"),
]

each_strategy = pytest.mark.parametrize("name", NAMES)


def build(name: str) -> Strategy:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+strategy={name}", "+seed=0"])
    overrides = OVERRIDES / f"{name}.yaml"
    if overrides.exists():
        config.strategy = OmegaConf.merge(config.strategy, OmegaConf.load(overrides))
    return instantiate(config.strategy)


def pooled() -> PooledModel:
    """A tiny model with two experts and a dispatch expert, made anew."""
    lm = tiny_model(context_length=4096)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    fingerprint = fingerprint_of(svf.singular_values)

    def expert(domain: str, description: str, seed: int) -> Expert:
        noise = torch.Generator().manual_seed(seed)
        metadata = ExpertMetadata(
            lm.source, fingerprint, "direct", domain, domain, description, "rloo", step=1, t2_version="0"
        )
        scales = {name: 1 + 0.2 * torch.randn(s.shape, generator=noise) for name, s in svf.singular_values.items()}
        return Expert(scales, metadata)

    experts = {"math": expert("math", "sums and products", 1), "words": expert("words", "spelling", 2)}
    return PooledModel(HFGenerator(lm, svf), ExpertPool(experts, expert("dispatch", "which domain", 3)))


@cache
def shared(name: str) -> tuple[Strategy, PooledModel]:
    """A strategy that has been fitted, and what it was fitted for."""
    strategy, model, task = build(name), pooled(), LetterTask()
    strategy.fit(model, task, task.split("train")[:4])
    return strategy, model


@torch.no_grad()
def logits(model: PooledModel) -> torch.Tensor:
    return model.lm.model(input_ids=torch.arange(20)[None]).logits


def test_the_glob_found_something():
    assert {"base", "prompt", "classifier"} <= set(NAMES)


def test_names_are_distinct():
    names = [build(name).name for name in NAMES]
    assert len(set(names)) == len(names)
    assert all(names)


@each_strategy
def test_is_a_strategy(name):
    assert isinstance(build(name), Strategy)


@each_strategy
def test_gives_one_choice_per_example_with_a_weight_for_each_expert(name):
    strategy, model = shared(name)
    choices = strategy.choose(model, EXAMPLES)
    assert len(choices) == len(EXAMPLES)
    assert all(len(choice.mixture.weights) == len(model.pool.experts) for choice in choices)
    assert all(len(choice.mixture.weights[0]) in (1, len(model.adapter.singular_values)) for choice in choices)


@each_strategy
def test_what_it_chooses_can_be_worn(name):
    strategy, model = shared(name)
    for choice in strategy.choose(model, EXAMPLES):
        state = model.pool.state(choice.mixture)
        assert state.keys() <= model.adapter.singular_values.keys()
        assert all(z.isfinite().all() for z in state.values())


@each_strategy
def test_labels_are_domains_or_other_and_scores_are_probabilities(name):
    strategy, model = shared(name)
    labels = {*model.pool.experts, OTHER}
    for choice in strategy.choose(model, EXAMPLES):
        assert choice.label is None or choice.label in labels
        assert not choice.scores or set(choice.scores) == labels
        assert not choice.scores or sum(choice.scores.values()) == pytest.approx(1.0)


@each_strategy
def test_the_label_other_is_the_base(name):
    strategy, model = shared(name)
    for choice in strategy.choose(model, [Example(f"prompt number {i}") for i in range(20)]):
        hard = all(weight in (0.0, 1.0) for weight in choice.mixture.means)
        assert choice.label != OTHER or not hard or not any(choice.mixture.means)


@each_strategy
def test_choices_follow_the_order_of_the_examples(name):
    strategy, model = shared(name)
    there, back = strategy.choose(model, EXAMPLES), strategy.choose(model, EXAMPLES[::-1])[::-1]
    assert [choice.label for choice in there] == [choice.label for choice in back]
    for one, other in zip(there, back, strict=True):
        assert one.mixture.means == pytest.approx(other.mixture.means, abs=1e-4)
    assert there[0].mixture.means == pytest.approx(there[3].mixture.means, abs=1e-4)


@each_strategy
def test_an_example_is_chosen_for_alone_as_among_others(name):
    strategy, model = shared(name)
    together = strategy.choose(model, EXAMPLES)
    for example, among in zip(EXAMPLES, together, strict=True):
        (alone,) = strategy.choose(model, [example])
        assert alone.label == among.label
        assert alone.mixture.means == pytest.approx(among.mixture.means, abs=1e-4)


@each_strategy
def test_the_same_examples_get_the_same_choices(name):
    strategy, model = shared(name)
    assert strategy.choose(model, EXAMPLES) == strategy.choose(model, EXAMPLES)


@each_strategy
def test_a_new_one_fitted_alike_chooses_alike(name):
    strategy, model, task = build(name), pooled(), LetterTask()
    strategy.fit(model, task, task.split("train")[:4])
    expected = shared(name)[0].choose(shared(name)[1], EXAMPLES)
    for one, other in zip(strategy.choose(model, EXAMPLES), expected, strict=True):
        assert one.label == other.label
        assert one.mixture.means == pytest.approx(other.mixture.means, abs=1e-4)


@each_strategy
def test_no_examples_need_no_choice(name):
    strategy, model = shared(name)
    assert strategy.choose(model, []) == []


@each_strategy
def test_unfitted_it_chooses_or_says_that_it_must_be_fitted(name):
    strategy, model, message = build(name), pooled(), ""
    try:
        choices = strategy.choose(model, EXAMPLES)
    except ValueError as error:
        message = str(error)
    assert "fit" in message or choices == shared(name)[0].choose(model, EXAMPLES)


@each_strategy
def test_the_adapter_wears_what_it_wore(name):
    strategy, model, task = build(name), pooled(), LetterTask()
    model.adapter.load(model.pool.experts["words"].scales)
    before = logits(model)
    strategy.fit(model, task, task.split("train")[:4])
    strategy.choose(model, EXAMPLES)
    assert torch.equal(logits(model), before)


@each_strategy
def test_what_the_adapter_has_learned_does_not_matter(name):
    strategy, model = shared(name)
    learned = pooled()
    learned.adapter.load(model.pool.experts["math"].scales)
    for one, other in zip(strategy.choose(learned, EXAMPLES), strategy.choose(model, EXAMPLES), strict=True):
        assert one.label == other.label
        assert one.mixture.means == pytest.approx(other.mixture.means, abs=1e-4)


@each_strategy
def test_global_random_states_are_left_alone(name):
    before, torch_before = random.getstate(), torch.get_rng_state()
    strategy, model, task = build(name), shared(name)[1], LetterTask()
    strategy.fit(model, task, task.split("train")[:4])
    strategy.choose(model, EXAMPLES)
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)
