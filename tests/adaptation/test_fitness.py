"""Fitness per example is that of each mixture alone, merged; ties, references and what cannot be compared."""

from __future__ import annotations

import pytest
import torch
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from tiny_models import same_states
from tiny_pool import Merging, per_matrix, pooled

from t2.adaptation import fitness as fitness_module
from t2.adaptation.fitness import Accuracy, Likelihood, complete_merged, complete_per_example
from t2.adaptation.search import Fitness
from t2.adaptation.strategy import PooledModel
from t2.experts.mixture import Mixture
from t2.policy.generator import AdaptableGenerator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Sampling

MIXTURES = [Mixture.of(0, 0), Mixture.of(1, 0), Mixture.of(0.3, 1.5), Mixture.of(0.5, 0.5, rule="paper")]


@pytest.mark.parametrize("batch_rows", [1, 5, 64])
def test_completions_per_example_are_those_of_each_mixture_merged(batch_rows):
    model = pooled(batch_rows=batch_rows)
    mixtures, sampling = [*MIXTURES, per_matrix(2, len(model.pool.modules), 2)], Sampling(max_new_tokens=10)
    rows = complete_per_example(model, mixtures, SUPPORT, sampling)
    alone = complete_merged(model, mixtures, SUPPORT, sampling)
    assert [[one.token_ids for one in row] for row in rows] == [[one.token_ids for one in row] for row in alone]
    assert len({tuple(one.token_ids for one in row) for row in rows}) > 2, "the mixtures must matter"
    for row, other in zip(rows, alone, strict=True):
        for one, two in zip(row, other, strict=True):
            assert one.log_probs == pytest.approx(two.log_probs, abs=1e-3)


def test_accuracy_per_example_is_that_of_each_mixture_merged():
    model, task = pooled(), Letters()
    mixtures = [*MIXTURES, per_matrix(2, len(model.pool.modules), 2)]
    rows = Accuracy(model, task, SUPPORT)(mixtures)
    merged = PooledModel(Merging(model.generator), model.pool)
    assert isinstance(merged.generator, AdaptableGenerator)
    alone = [Accuracy(merged, task, SUPPORT)([mixture])[0] for mixture in mixtures]
    assert [one.value for one in rows] == [one.value for one in alone]
    assert [one.likelihood for one in rows] == pytest.approx([one.likelihood for one in alone], abs=1e-3)
    assert len({one.likelihood for one in rows}) > 1


def right_completions(model: PooledModel, task: Letters) -> list[list[Completion]]:
    """Of each example the distinct right ones of base, uniform mixture and single experts, merged one by one."""
    simplest = [Mixture.base(2), Mixture.of(0.5, 0.5), Mixture.of(1, 0), Mixture.of(0, 1)]
    rows = complete_merged(model, simplest, SUPPORT, Sampling(max_new_tokens=task.max_new_tokens))
    found = [{one.token_ids: one for one in of} for of in zip(*rows, strict=True)]
    return [[one for one in group.values() if task.score(SUPPORT[0], one.text) == 1.0] for group in found]


@pytest.mark.parametrize("letter", ["", "O"])
@pytest.mark.parametrize("budget", [16, 4096])
def test_likelihood_is_the_mean_over_examples_of_their_right_completions_under_each_mixture(
    monkeypatch, budget, letter
):
    monkeypatch.setattr(fitness_module, "MICRO_BATCH_TOKENS", budget)
    model, task = pooled(), Letters(letter)
    mixtures = [*MIXTURES, per_matrix(2, len(model.pool.modules), 2)]
    rows = [one.value for one in Likelihood(model, task, SUPPORT)(mixtures)]
    groups = [group for group in right_completions(model, task) if group]
    assert (len(groups) == len(SUPPORT)) == (letter == "")
    assert max(map(len, groups)) > 1
    alone = []
    for mixture in mixtures:
        with torch.no_grad(), model.adapter.merged(model.pool.state(mixture)):
            each = [[float(token_log_probs(model.lm, [one]).log_probs.mean()) for one in group] for group in groups]
        alone.append(sum(sum(group) / len(group) for group in each) / len(each))
    assert rows == pytest.approx(alone, abs=1e-3)
    assert max(rows) - min(rows) > 0.05, "the mixtures must matter"


def test_what_was_decoded_for_the_likelihood_is_not_decoded_again(monkeypatch):
    measure = Likelihood(pooled(), Letters(""), SUPPORT)
    monkeypatch.setattr(HFGenerator, "generate", None)
    assert len(measure(MIXTURES)) == len(MIXTURES)


def test_completions_that_are_right_in_part_are_no_references():
    class Half(Letters):
        def score(self, example, text):
            return 0.5

    with pytest.raises(ValueError, match=r"right on any of 4 support examples of letters.*take fitness=accuracy"):
        Likelihood(pooled(), Half(), SUPPORT)


def test_the_base_mixture_is_the_base_model():
    model = pooled()
    with model.adapter.disabled():
        base = HFGenerator(model.lm).generate(SUPPORT, Sampling(max_new_tokens=8))
    rows = complete_per_example(model, [Mixture.of(1, 1), Mixture.base(2)], SUPPORT, Sampling(max_new_tokens=8))
    assert [one.token_ids for one in rows[1]] == [group[0].token_ids for group in base]


def test_what_the_adapter_has_learned_does_not_matter_and_stays():
    model = pooled()
    before = Likelihood(model, Letters(""), SUPPORT)(MIXTURES), Accuracy(model, Letters(), SUPPORT)(MIXTURES)
    learned = model.pool.state(Mixture.of(0, 1))
    model.adapter.load(learned)
    assert (Likelihood(model, Letters(""), SUPPORT)(MIXTURES), Accuracy(model, Letters(), SUPPORT)(MIXTURES)) == before
    assert same_states(model.adapter.state(), learned)


@pytest.mark.parametrize(("least", "per_example"), [(len(SUPPORT), 0), (len(SUPPORT) + 1, 1)])
def test_many_examples_are_completed_by_merged_weights(monkeypatch, least, per_example):
    model, calls = pooled(), []
    expected = complete_merged(model, MIXTURES, SUPPORT, Sampling(max_new_tokens=4))
    monkeypatch.setattr("t2.adaptation.strategy.MERGING_PAYS_FROM", least)
    monkeypatch.setattr(
        fitness_module, "complete_per_example", lambda *args: calls.append(0) or complete_per_example(*args)
    )
    found = fitness_module.complete_each(model, MIXTURES, SUPPORT, Sampling(max_new_tokens=4))
    assert [[one.token_ids for one in row] for row in found] == [[one.token_ids for one in row] for row in expected]
    assert len(calls) == per_example


def test_every_example_counts_the_same_whatever_its_length():
    model = pooled()
    whole = Likelihood(model, Letters(""), SUPPORT)(MIXTURES[:2])
    single = [Likelihood(model, Letters(""), [example])(MIXTURES[:2]) for example in SUPPORT]
    for index, one in enumerate(whole):
        assert one.value == pytest.approx(sum(row[index].value for row in single) / len(SUPPORT), abs=1e-5)


def scripted(monkeypatch, *answers: tuple[str, tuple[float, ...]]) -> Fitness:
    """The accuracy of one mixture that gives these texts with these log-probs."""
    row = [Completion((1,), (2,) * len(log_probs), log_probs, text, "stop") for text, log_probs in answers]
    monkeypatch.setattr(fitness_module, "complete_per_example", lambda *_: [row])
    return Accuracy(pooled(), Letters("e"), SUPPORT[: len(answers)])([Mixture.base(2)])[0]


@pytest.mark.parametrize(
    ("answers", "value", "likelihood"),
    [
        ([("e", (-1.0, -3.0)), ("wrong", (-0.1,)), ("yes", (-0.5, -0.5))], 2 / 3, (-2.0 - 0.5) / 2),
        ([("a", (-1.0,)), ("b", (-2.0,))], 0.0, 0.0),  # nothing correct
        ([("e", (-1.0,)), ("E", (-4.0,))], 0.75, (1.0 * -1.0 + 0.5 * -4.0) / 1.5),  # partly correct
    ],
)
def test_ties_are_broken_by_the_mean_log_prob_of_correct_completions_alone(monkeypatch, answers, value, likelihood):
    fitness = scripted(monkeypatch, *answers)
    assert (fitness.value, fitness.likelihood) == (pytest.approx(value), pytest.approx(likelihood))


def test_a_log_prob_that_is_no_number_is_refused_though_the_answer_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match=r"are nan: the weights overflow"):
        scripted(monkeypatch, ("b", (float("nan"),)), ("e", (-1.0,)))


def test_weights_that_overflow_are_refused_by_the_likelihood():
    model = pooled()
    with pytest.raises(ValueError, match=r"mean mixing weights \(1e\+30, 0\).*Narrow the bounds"):
        Likelihood(model, Letters(""), SUPPORT)([Mixture.base(2), Mixture.of(1e30, 0)])


def test_a_score_outside_0_and_1_is_refused():
    class Broken(Letters):
        def score(self, example, text):
            return float("nan")

    with pytest.raises(ValueError, match="scored nan"):
        Accuracy(pooled(), Broken(), SUPPORT)(MIXTURES)


def test_answers_are_as_long_as_the_task_allows():
    seen = []

    class Lengths(Letters):
        def score(self, example, text):
            seen.append(len(text))
            return 0.0

    model = pooled()
    model.lm.end_ids = frozenset()
    Accuracy(model, Lengths(max_new_tokens=3), SUPPORT)(MIXTURES)
    assert len(seen) == len(MIXTURES) * len(SUPPORT)
    assert max(seen) <= 3


def test_a_generator_without_per_example_scales_is_named():
    model = pooled()
    with pytest.raises(ValueError, match="Merging cannot give every example its own state"):
        complete_per_example(PooledModel(Merging(model.generator), model.pool), MIXTURES, SUPPORT, Sampling())
