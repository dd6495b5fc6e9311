"""Fitness in row batches is that of each mixture alone, merged; ties, references and what cannot be compared."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import pytest
import torch

from t2.adaptation import fitness as fitness_module
from t2.adaptation.fitness import Accuracy, Likelihood, complete_merged, complete_per_example
from t2.adaptation.search import Fitness
from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.generator import AdaptableGenerator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.reference import encode_reference
from t2.types import Completion, Example, Sampling

SUPPORT = [Example("one", "abc"), Example("a longer question", "ha"), Example("two", "x" * 9), Example("q", "no")]
MIXTURES = [Mixture.of(0, 0), Mixture.of(1, 0), Mixture.of(0.3, 1.5), Mixture.of(0.5, 0.5, rule="paper")]


@functools.cache
def _adapted() -> PooledModel:
    lm = tiny_model(layers=1)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    fingerprint, random = fingerprint_of(svf.singular_values), torch.Generator().manual_seed(0)
    experts = {}
    for domain in ("math", "code"):
        metadata = ExpertMetadata(lm.source, fingerprint, "direct", domain, domain, domain, "RLOO", 1, "0")
        noise = {name: torch.randn(s.shape, generator=random) for name, s in svf.singular_values.items()}
        experts[domain] = Expert({name: 1 + 0.3 * values for name, values in noise.items()}, metadata)
    return PooledModel(HFGenerator(lm, svf), ExpertPool(experts))


def pooled(batch_rows: int = 64) -> PooledModel:
    """A tiny model with two strong experts, math and code, that nobody else holds."""
    model = copy.deepcopy(_adapted())
    model.generator.batch_rows = batch_rows
    return model


@dataclass(frozen=True)
class Letters:
    """Full score for an answer with the given letter somewhere in it, half for a capital one."""

    letter: str = "e"
    name: str = "letters"
    max_new_tokens: int = 12

    def split(self, split):
        return SUPPORT

    def score(self, example, text):
        return 1.0 if self.letter in text else 0.5 * (self.letter.upper() in text)


class Merging:
    """A generator that cannot do rows."""

    def __init__(self, generator):
        self.lm, self.adapter, self._generator = generator.lm, generator.adapter, generator

    def with_state(self, state):
        return self._generator.with_state(state)

    def generate(self, examples, sampling):
        return self._generator.generate(examples, sampling)


def per_matrix(model: PooledModel) -> Mixture:
    random = torch.Generator().manual_seed(2)
    rows = torch.rand(2, len(model.pool.modules), generator=random).tolist()
    return Mixture(tuple(map(tuple, rows)))


@pytest.mark.parametrize("batch_rows", [1, 5, 64])
def test_answers_by_rows_are_those_of_each_mixture_merged(batch_rows):
    model = pooled(batch_rows)
    mixtures, sampling = [*MIXTURES, per_matrix(model)], Sampling(max_new_tokens=10)
    rows = complete_per_example(model, mixtures, SUPPORT, sampling)
    alone = complete_merged(model, mixtures, SUPPORT, sampling)
    assert [[one.token_ids for one in row] for row in rows] == [[one.token_ids for one in row] for row in alone]
    assert len({tuple(one.token_ids for one in row) for row in rows}) > 2, "the mixtures must matter"
    for row, other in zip(rows, alone, strict=True):
        for one, two in zip(row, other, strict=True):
            assert one.log_probs == pytest.approx(two.log_probs, abs=1e-3)


def test_accuracy_by_rows_is_that_of_each_mixture_merged():
    model, task = pooled(), Letters()
    mixtures = [*MIXTURES, per_matrix(model)]
    rows = Accuracy(model, task, SUPPORT)(mixtures)
    merged = PooledModel(Merging(model.generator), model.pool)
    assert isinstance(merged.generator, AdaptableGenerator)
    alone = [Accuracy(merged, task, SUPPORT)([mixture])[0] for mixture in mixtures]
    assert [one.value for one in rows] == [one.value for one in alone]
    assert [one.likelihood for one in rows] == pytest.approx([one.likelihood for one in alone], abs=1e-3)
    assert len({one.likelihood for one in rows}) > 1


@pytest.mark.parametrize("budget", [16, 4096])
def test_likelihood_by_rows_is_that_of_each_mixture_merged(monkeypatch, budget):
    monkeypatch.setattr(fitness_module, "MICRO_BATCH_TOKENS", budget)
    model = pooled()
    mixtures = [*MIXTURES, per_matrix(model)]
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
    assert all(torch.equal(z, learned[name]) for name, z in model.adapter.state().items())


def test_every_example_counts_the_same_whatever_its_length():
    model = pooled()
    whole = Likelihood(model, SUPPORT)(MIXTURES[:2])
    single = [Likelihood(model, [example])(MIXTURES[:2]) for example in SUPPORT]
    for place, one in enumerate(whole):
        assert one.value == pytest.approx(sum(row[place].value for row in single) / len(SUPPORT), abs=1e-5)


def scripted(monkeypatch, *answers: tuple[str, tuple[float, ...]]) -> Fitness:
    """The accuracy of one mixture that gives these texts with these log-probs."""
    row = [Completion((1,), (2,) * len(log_probs), log_probs, text, "stop") for text, log_probs in answers]
    monkeypatch.setattr(fitness_module, "complete_per_example", lambda *_: [row])
    return Accuracy(pooled(), Letters("e"), SUPPORT[: len(answers)])([Mixture.base(2)])[0]


def test_ties_are_broken_by_the_mean_log_prob_of_the_correct_answers_alone(monkeypatch):
    fitness = scripted(monkeypatch, ("e", (-1.0, -3.0)), ("wrong", (-0.1,)), ("yes", (-0.5, -0.5)))
    assert fitness.value == pytest.approx(2 / 3)
    assert fitness.likelihood == pytest.approx((-2.0 - 0.5) / 2)


def test_ties_of_nothing_correct_are_zero(monkeypatch):
    assert scripted(monkeypatch, ("a", (-1.0,)), ("b", (-2.0,))) == Fitness(0.0, 0.0)


def test_partly_correct_answers_count_in_part(monkeypatch):
    fitness = scripted(monkeypatch, ("e", (-1.0,)), ("E", (-4.0,)))
    assert fitness.value == pytest.approx(0.75)
    assert fitness.likelihood == pytest.approx((1.0 * -1.0 + 0.5 * -4.0) / 1.5)


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

    with pytest.raises(ValueError, match="gave the score nan"):
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


def test_a_generator_without_rows_is_named():
    model = pooled()
    with pytest.raises(ValueError, match="Merging cannot give every example its own state"):
        complete_per_example(PooledModel(Merging(model.generator), model.pool), MIXTURES, SUPPORT, Sampling())


def test_a_reference_stands_behind_the_prompt_and_its_prefill():
    lm = pooled().lm
    example = Example("2 + 2?", " 4", response_prefix="It is")
    reference = encode_reference(lm, example)
    assert list(reference.prompt_ids) == lm.encode(example)
    assert lm.decode(reference.token_ids) == " 4"
    assert not set(reference.token_ids) & lm.end_ids


def test_the_end_of_the_turn_counts_on_request():
    lm = pooled().lm
    plain, ended = (encode_reference(lm, SUPPORT[0], end_of_turn=flag) for flag in (False, True))
    assert ended.token_ids == (*plain.token_ids, lm.tokenizer.eos_token_id)
    assert ended.token_ids[-1] in lm.end_ids


@pytest.mark.parametrize("answer", [None, ""])
def test_an_example_without_an_answer_is_refused(answer):
    with pytest.raises(ValueError, match="no reference answer"):
        Likelihood(pooled(), [Example("question", answer)])


def test_a_reference_that_does_not_fit_the_context_is_refused():
    with pytest.raises(ValueError, match="the context of"):
        Likelihood(pooled(), [Example("question", "x" * 600)])


def test_an_adapter_without_rows_is_refused_by_the_likelihood():
    model = pooled()
    model.generator.adapter = object()
    with pytest.raises(ValueError, match="Take fitness=accuracy"):
        Likelihood(model, SUPPORT)
