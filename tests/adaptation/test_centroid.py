"""Dispatch by centroids: which domain is nearest, what is `other`, and which vectors are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_pool
import torch

from t2.adaptation import centroid as module
from t2.adaptation.centroid import Centroid
from t2.adaptation.strategy import PooledModel
from t2.experts.centroids import Prototype
from t2.experts.mixture import Mixture
from t2.types import OTHER, Example
from tests.adaptation.centroid_setup import Wording, dispatch_task, with_centroids

FAR = {"far": Prototype(torch.ones(3), torch.ones(5))}  # a task that no planted state is of


def pooled(**settings) -> PooledModel:
    return with_centroids(tiny_pool.pooled("math", "words", layers=2), **settings)


QUESTIONS = [Example("777 + 777 =", system="be brief"), Example("How is tree number 900 spelled?"), Example("9 * 9 =")]
HELLO = Example("Hello there, guest 850.")


def test_prompts_that_no_vector_has_seen_go_to_their_domain_and_other_to_the_base():
    found = Centroid().choose(pooled(), [*QUESTIONS, HELLO])
    assert [choice.label for choice in found] == ["math", "words", "math", OTHER]
    expected = [Mixture.of(1, 0), Mixture.of(0, 1), Mixture.of(1, 0), Mixture.base(2)]
    assert [choice.mixture for choice in found] == expected
    assert all(choice.tokens == 0 for choice in found)


@pytest.fixture
def planted(monkeypatch):
    """A model whose prompts have these states, and whose centroids are the axes."""

    def plant(*states, cosines=(0.9, 0.9), other=True, tasks=None):
        model = pooled(other=other)
        axes = zip(("math", "words", OTHER), torch.eye(3), (*cosines, 1.0), strict=True)
        every = {label: Prototype(axis, torch.full((5,), own)) for label, axis, own in axes}
        labels = {label: every[label] for label in model.pool.centroids.labels}
        kept = {"labels": labels, "tasks": {label: (tasks or {}).get(label, FAR) for label in labels}}
        monkeypatch.setattr(module, "mean_states", lambda *_: torch.tensor(states)[:, None])
        return replace(model, pool=replace(model.pool, centroids=replace(model.pool.centroids, **kept)))

    return plant


def test_scores_are_the_softmax_of_cosines_whatever_the_lengths(planted):
    model = planted([3.0, 4.0, 0.0])  # cosines 0.6, 0.8, 0
    (choice,) = Centroid(temperature=0.5).choose(model, QUESTIONS[:1])
    expected = torch.softmax(torch.tensor([0.6, 0.8, 0.0]) / 0.5, dim=0).tolist()
    assert list(choice.scores.values()) == pytest.approx(expected)
    assert list(choice.scores) == ["math", "words", OTHER]
    assert (choice.label, choice.mixture) == ("words", Mixture.of(0, 1))
    (soft,) = Centroid(soft=True, temperature=0.5).choose(model, QUESTIONS[:1])
    assert soft.mixture.means == pytest.approx(expected[:2])


@pytest.mark.parametrize(
    ("refuse", "cosines", "label"),
    [
        (None, (0.9, 0.9), "words"),
        (0.01, (0.1, 0.79), "words"),
        (0.01, (0.99, 0.79), "words"),  # the threshold is that of the nearest domain
        (0.01, (0.1, 0.81), OTHER),
        (0.01, (0.1, 0.8), "words"),  # as near as the farthest of its own
    ],
)
def test_a_prompt_far_from_its_nearest_domain_is_other_if_asked_for(planted, refuse, cosines, label):
    for other in (True, False):
        model = planted([3.0, 4.0, 0.0], cosines=cosines, other=other)
        (choice,) = Centroid(refuse=refuse).choose(model, QUESTIONS[:1])
        assert choice.label == label
        assert choice.mixture == (Mixture.base(2) if label == OTHER else Mixture.of(0, 1))


def test_without_a_vector_of_other_and_without_a_threshold_nothing_is_other(planted):
    (choice,) = Centroid().choose(planted([0.0, 1e-3, 9.0], other=False), QUESTIONS[:1])
    assert choice.label == "words"
    assert choice.scores[OTHER] == 0.0
    assert sum(choice.scores.values()) == pytest.approx(1.0)


def test_states_that_are_no_numbers_are_refused(planted):
    with pytest.raises(ValueError, match="NaN or infinite"):
        Centroid().choose(planted([float("nan"), 1.0, 0.0]), QUESTIONS[:1])


def test_the_base_is_read_whatever_the_adapter_has_learned():
    model = pooled()
    expected = Centroid().choose(model, QUESTIONS)
    model.adapter.load(model.pool.experts["words"].scales)
    assert Centroid().choose(model, QUESTIONS) == expected


def test_the_order_of_the_pool_does_not_matter():
    model = pooled()
    turned = replace(model.pool, experts=dict(reversed(model.pool.experts.items())))
    found = Centroid().choose(PooledModel(model.generator, turned), QUESTIONS)
    assert [choice.label for choice in found] == ["math", "words", "math"]
    assert found[0].mixture == Mixture.of(0, 1)


NEAR_WORDS = {"words": {"spell": Prototype(torch.tensor([1.0, 1.0, 0.0]), torch.full((9,), 0.95))}}


@pytest.mark.parametrize(
    ("state", "novelty", "label"),
    [
        ([4.0, 3.0, 0.0], 0.1, "words"),  # nearer to math as a whole, but as near to a task of words as its own
        ([4.0, 3.0, 0.0], None, "math"),
        ([4.0, 1.0, 0.0], 0.1, "math"),  # too far from that task: cosine 0.857
    ],
)
def test_a_prompt_as_near_to_a_task_as_its_own_has_the_label_of_the_task(planted, state, novelty, label):
    for refuse in (None, 0.5):
        model = planted(state, cosines=(0.1, 0.1), tasks=NEAR_WORDS)
        (choice,) = Centroid(novelty=novelty, refuse=refuse).choose(model, QUESTIONS[:1])
        assert choice.label == label


def test_of_tasks_that_a_prompt_may_be_of_the_nearest_decides(planted):
    vectors = {"math": [4.0, 3.0, 1.0], "words": [4.0, 3.0, 0.5], OTHER: [4.0, 3.0, 0.0]}
    tasks = {label: {"own": Prototype(torch.tensor(one), torch.full((9,), 0.5))} for label, one in vectors.items()}
    for state, label in (([4.0, 3.0, 0.9], "math"), ([4.0, 3.0, 0.5], "words"), ([4.0, 3.0, -0.1], OTHER)):
        (choice,) = Centroid().choose(planted(state, tasks=tasks), QUESTIONS[:1])
        assert (choice.label, choice.scores[label] > 0.3) == (label, True)


# What is fitted


def test_fitted_to_a_dispatch_task_it_uses_those_vectors_and_fitted_to_another_task_the_pools():
    bare = tiny_pool.pooled("math", "words", layers=2)
    strategy, model = Centroid(layer=1), pooled()
    strategy.fit(bare, dispatch_task(), ())
    assert strategy.choose(bare, QUESTIONS) == Centroid().choose(model, QUESTIONS)
    other = Centroid()
    other.fit(model, Wording("{}", "numbers"), [Example("1", "x")])
    assert other.centroids is None
    assert other.choose(model, QUESTIONS) == strategy.choose(bare, QUESTIONS)


def test_without_centroids_it_says_how_they_are_made():
    with pytest.raises(ValueError, match=r"'centroid' needs the centroids.*adapt.py.*or fit the strategy"):
        Centroid().choose(tiny_pool.pooled("math", "words", layers=2), [])


def test_centroids_of_another_layer_or_pool_are_refused():
    model = pooled()
    with pytest.raises(ValueError, match=r"of layer 1, and strategy.layer is 2"):
        Centroid(layer=2).choose(model, QUESTIONS)
    expert = tiny_pool.make_expert(7, model.adapter.singular_values, base_model=model.lm.source)
    with pytest.raises(ValueError, match="for the domains math, words, and the pool has code, math, words"):
        Centroid().choose(replace(model, pool=model.pool.with_expert("code", expert)), QUESTIONS)
    model.lm.source = "tiny:other"
    with pytest.raises(ValueError, match="of the model tiny:llama, and tiny:other is loaded"):
        Centroid().choose(model, QUESTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "strategy.temperature is 0.0"),
        ({"refuse": 0.0}, "strategy.refuse is 0.0"),
        ({"refuse": 1.0}, "strategy.refuse is 1.0"),
        ({"novelty": 0.0}, "strategy.novelty is 0.0"),
        ({"layer": 0}, "strategy.layer is 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Centroid(**options)
