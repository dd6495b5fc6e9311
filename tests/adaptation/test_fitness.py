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
from t2.policy.reference import encode_reference
from t2.types import Completion, Example, Sampling

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


@pytest.mark.parametrize("budget", [16, 4096])
def test_likelihood_per_example_is_that_of_each_mixture_merged(monkeypatch, budget):
    monkeypatch.setattr(fitness_module, "MICRO_BATCH_TOKENS", budget)
    model = pooled()
    mixtures = [*MIXTURES, per_matrix(2, len(model.pool.modules), 2)]
    rows = [one.value for one in Likelihood(model, SUPPORT)(mixtures)]
    alone = []
    for mixture in mixtures:
        with torch.no_grad(), model.adapter.merged(model.pool.state(mixture)):
            each = [token_log_probs(model.lm, [encode_reference(model.lm, one)]) for one in SUPPORT]
        alone.append(sum(float(one.log_probs.mean()) for one in each) / len(each))
    assert rows == pytest.approx(alone, abs=1e-3)
    assert max(rows) - min(rows) > 0.05, "the mixtures must matter"


def test_the_base_mixture_is_the_base_model():
    model = pooled()
    with model.adapter.disabled():
        base = HFGenerator(model.lm).generate(SUPPORT, Sampling(max_new_tokens=8))
    rows = complete_per_example(model, [Mixture.of(1, 1), Mixture.base(2)], SUPPORT, Sampling(max_new_tokens=8))
    assert [one.token_ids for one in rows[1]] == [group[0].token_ids for group in base]


def test_what_the_adapter_has_learned_does_not_matter_and_stays():
    model = pooled()
    before = Likelihood(model, SUPPORT)(MIXTURES), Accuracy(model, Letters(), SUPPORT)(MIXTURES)
    learned = model.pool.state(Mixture.of(0, 1))
    model.adapter.load(learned)
    assert (Likelihood(model, SUPPORT)(MIXTURES), Accuracy(model, Letters(), SUPPORT)(MIXTURES)) == before
    assert same_states(model.adapter.state(), learned)


def test_every_example_counts_the_same_whatever_its_length():
    model = pooled()
    whole = Likelihood(model, SUPPORT)(MIXTURES[:2])
    single = [Likelihood(model, [example])(MIXTURES[:2]) for example in SUPPORT]
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
        Likelihood(model, SUPPORT)([Mixture.base(2), Mixture.of(1e30, 0)])


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


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "no reference answer"), ("", "no reference answer"), ("x" * 600, "the context of")],
)
def test_a_reference_that_is_missing_or_too_long_is_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        Likelihood(pooled(), [Example("question", answer)])


def test_an_adapter_without_per_example_scales_is_refused_by_the_likelihood():
    model = pooled()
    model.generator.adapter = object()
    with pytest.raises(ValueError, match="Take fitness=accuracy"):
        Likelihood(model, SUPPORT)
