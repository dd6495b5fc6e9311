"""Making centroids: whose prompts, which layer, and what is taken over from before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import tiny_pool
import torch
import torch.nn.functional as F

from t2.adaptation import centroid_fit as module
from t2.adaptation.centroid_fit import cosines_of, make_centroids
from t2.adaptation.strategy import PooledModel
from t2.experts.centroids import Prototype
from t2.experts.fingerprint import fingerprint_of
from t2.policy.mean_states import mean_states
from t2.types import OTHER
from tests.adaptation.centroid_setup import Wording, dispatch_task, with_centroids

WORDS = {"sums": "+", "products": "*", "spell": "tree", "talk": "Hello"}  # a word that only prompts of the task have
CODE = Wording("Write a function that adds {}.", "code")


def pooled() -> PooledModel:
    return tiny_pool.pooled("math", "words", layers=2)


def questions(split: str, label: str) -> list[str]:
    return sorted(one.metadata["question"] for one in dispatch_task().split(split) if one.answer == label)


def noting(monkeypatch) -> list[str]:
    """The prompts whose states are computed."""
    asked: list[str] = []

    def read(lm, prompts, layers):
        asked.extend(prompts)
        return mean_states(lm, prompts, layers)

    monkeypatch.setattr(module, "mean_states", read)
    return asked


@pytest.mark.parametrize("label", ["math", "words", OTHER])
def test_a_vector_is_the_mean_over_train_prompts_and_cosines_are_those_of_val_prompts(label):
    model = pooled()
    model.adapter.load(model.pool.experts["math"].scales)  # the base is read all the same
    made = make_centroids(model, dispatch_task(), layer=2)
    train, val = questions("train", label), questions("val", label)
    with model.adapter.disabled():
        vector = mean_states(model.lm, train, [2])[:, 0].mean(dim=0)
        own = mean_states(model.lm, val, [2])[:, 0]
    torch.testing.assert_close(made.labels[label].vector, vector)
    torch.testing.assert_close(made.labels[label].cosines.sort()[0], F.cosine_similarity(own, vector[None]).sort()[0])
    source = made.sources[label]
    assert (source.prompts, source.val_prompts) == (6, 6)
    for task, one in made.tasks[label].items():
        own, held_out = ([q for q in split if WORDS[task] in q] for split in (train, val))
        with model.adapter.disabled():
            vector = mean_states(model.lm, own, [2])[:, 0].mean(dim=0)
            states = mean_states(model.lm, held_out, [2])[:, 0]
        torch.testing.assert_close(one.vector, vector)
        torch.testing.assert_close(one.cosines, F.cosine_similarity(states, vector[None]))
    assert list(made.tasks[label]) == {"math": ["products", "sums"], "words": ["spell"], OTHER: ["talk"]}[label]
    assert source.sha256 == hashlib.sha256(json.dumps(train).encode()).hexdigest()
    assert source.val_sha256 == hashlib.sha256(json.dumps(val).encode()).hexdigest()


def test_the_file_says_what_it_is_of():
    model = pooled()
    made = make_centroids(model, dispatch_task(), layer=2)
    assert (made.layer, made.base_model, made.task, made.accuracy) == (2, "tiny:llama", "dispatch", {})
    assert made.fingerprint == fingerprint_of(model.adapter.singular_values)
    assert list(made.labels) == ["math", OTHER, "words"]


def test_no_question_of_the_test_split_is_used(monkeypatch):
    seen: set[str] = set()
    read = mean_states
    monkeypatch.setattr(
        module, "mean_states", lambda lm, prompts, layers: seen.update(prompts) or read(lm, prompts, layers)
    )
    task = dispatch_task()
    make_centroids(pooled(), task)
    assert seen == {one.metadata["question"] for split in ("train", "val") for one in task.split(split)}


# The layer


def planted(monkeypatch, states_of):
    """Hidden states (B, L, 2) by prompt and layer."""

    def read(lm, prompts, layers):
        return torch.tensor([[states_of(prompt, layer) for layer in layers] for prompt in prompts])

    monkeypatch.setattr(module, "mean_states", read)


@pytest.mark.parametrize(("good", "layer"), [(1, 2), (3, 3), (4, 4)])
def test_the_layer_is_the_best_in_cross_validation_and_of_equals_the_middle_one(monkeypatch, good, layer):
    angle = {"+": (1.0, 0.0), "*": (1.0, 0.1), "tree": (0.0, 1.0), "Hello": (-1.0, 0.0)}

    def states_of(prompt, block):
        return next(a for word, a in angle.items() if word in prompt) if block >= good else (1.0, 1.0)

    planted(monkeypatch, states_of)
    made = make_centroids(tiny_pool.pooled("math", "words", layers=4), dispatch_task())
    assert made.layer == layer
    expected = {block: 1.0 if block >= good else pytest.approx(1 / 3) for block in (1, 2, 3, 4)}
    assert made.accuracy == expected


def test_a_task_is_left_out_of_its_labels_vector_when_it_is_asked_about(monkeypatch):
    angle = {"+": (1.0, 0.0), "*": (0.0, 1.0), "tree": (0.1, 1.0), "Hello": (-1.0, 0.0)}
    planted(monkeypatch, lambda prompt, layer: next(a for word, a in angle.items() if word in prompt))
    made = make_centroids(pooled(), dispatch_task())
    # Sums are asked about under the vector of products, and products under that of sums: words is nearer to both.
    assert made.accuracy[1] == pytest.approx(2 / 3)


def test_labels_count_the_same_however_many_prompts_they_have():
    states = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0], [1.0, 0.0]])
    labels = ["a"] * 8 + ["b", "b"]
    assert module._accuracy(states, labels, list(range(10))) == pytest.approx((1.0 + 0.0) / 2)


# What is taken over


def test_a_new_expert_costs_its_own_prompts_and_changes_no_other_vector(monkeypatch):
    model = with_centroids(pooled(), layer=1)
    expert = tiny_pool.make_expert(7, model.adapter.singular_values, base_model=model.lm.source)
    grown = replace(model, pool=model.pool.with_expert("code", expert))
    asked = noting(monkeypatch)
    made = make_centroids(grown, dispatch_task(more={"code": CODE}), layer=1)
    assert sorted(asked) == sorted(one.prompt for split in ("train", "val") for one in CODE.split(split))
    assert set(made.labels) == {"math", "words", "code", OTHER}
    assert all(made.labels[label] is model.pool.centroids.labels[label] for label in ("math", "words", OTHER))


def test_a_domain_whose_prompts_have_changed_is_computed_again(monkeypatch):
    model = with_centroids(pooled(), layer=1)
    asked = noting(monkeypatch)
    made = make_centroids(model, dispatch_task(val_size=5), layer=1)
    assert len(asked) == 3 * (6 + 5)
    assert len(made.labels["math"].cosines) == 5


@pytest.mark.parametrize("change", ["layer", "base_model", "fingerprint"])
def test_vectors_of_another_layer_or_model_are_not_taken_over(change):
    model = with_centroids(pooled(), layer=1)
    wrong = {"layer": 2, "base_model": "tiny:other", "fingerprint": '{"a": 1.0}'}[change]
    nothing = Prototype(torch.zeros(32), torch.ones(1))
    foreign = replace(
        model.pool.centroids,
        **{change: wrong, "labels": dict.fromkeys(model.pool.centroids.labels, nothing)},
    )
    made = make_centroids(replace(model, pool=replace(model.pool, centroids=foreign)), dispatch_task(), layer=1)
    assert all(one.vector.any() for one in made.labels.values())


@pytest.mark.parametrize("domains", [("math",), ("math", "words", "code")])
def test_a_task_of_other_domains_is_refused_before_anything_is_computed(monkeypatch, domains):
    model = tiny_pool.pooled(*domains, layers=2)
    monkeypatch.setattr(module, "mean_states", None)
    with pytest.raises(ValueError, match=r"dispatch has the labels math, other, words, and the pool's domains are"):
        make_centroids(model, dispatch_task())


def test_a_layer_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="layer is 3, and tiny:llama has the decoder blocks 1 to 2"):
        make_centroids(pooled(), dispatch_task(), layer=3)


def test_cosines_are_of_all_states_with_all_vectors():
    found = cosines_of(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 9.0], [1.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8, 7 / 50**0.5], [1.0, 0.0, 0.5**0.5]]))
