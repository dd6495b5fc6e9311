"""Choosing by certainty: which completion wins, that it is the answer, and when a second pass is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_pool import Merging, pooled

from t2.adaptation import confidence as module
from t2.adaptation.confidence import Confidence
from t2.adaptation.fitness import complete_merged
from t2.adaptation.strategy import CompletingStrategy
from t2.adaptation.two_pass import TwoPass
from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import OTHER, Completion, Example, Sampling

EXAMPLES = [Example("one"), Example("a longer question"), Example("two"), Example("q")]
MIXTURES = [Mixture.base(2), Mixture.of(1, 0), Mixture.of(0, 1)]
GREEDY = Sampling(max_new_tokens=6)


def one(*log_probs: float) -> Completion:
    return Completion((1,), (2,) * len(log_probs), log_probs, f"{log_probs}", "stop")


@pytest.fixture
def scripted(monkeypatch):
    """Make base, math and letters complete with these log-probs, one example; notes what was asked."""
    asked = []

    def script(*rows):
        def complete(model, mixtures, examples, sampling):
            asked.append((list(mixtures), sampling))
            return [[one(*row)] for row in rows[-len(mixtures) :]]

        monkeypatch.setattr(module, "complete_each", complete)
        return asked

    return script


@pytest.mark.parametrize(
    ("measure", "rows", "label"),
    [
        ("mean", [(-1.0,), (-0.2, -0.8, -0.2), (-0.5,)], "math"),  # means -1, -0.4, -0.5
        ("sum", [(-1.0,), (-0.2, -0.8, -0.2), (-0.5,)], "letters"),  # sums -1, -1.2, -0.5
        ("mean", [(-0.1,), (-0.2,), (-0.2,)], OTHER),
        ("mean", [(-0.1,), (-0.1,), (-0.1,)], OTHER),  # of equals the first: the base
    ],
)
def test_the_most_certain_completion_wins(scripted, measure, rows, label):
    scripted(*rows)
    (choice,), answers = Confidence(measure).complete(pooled(), EXAMPLES[:1], GREEDY)
    assert choice.label == label
    assert choice.mixture == dict(zip((OTHER, "math", "letters"), MIXTURES, strict=True))[label]
    assert choice.tokens == sum(map(len, rows))
    assert answers == [[one(*dict(zip((OTHER, "math", "letters"), rows, strict=True))[label])]]
    values = [sum(row) / (1 if measure == "sum" else len(row)) for row in rows]
    expected = torch.softmax(torch.tensor(values), dim=0).tolist()
    assert choice.scores == pytest.approx(dict(zip((OTHER, "math", "letters"), expected, strict=True)))


def test_without_the_base_only_experts_complete(scripted):
    asked = scripted((-0.1,), (-0.3,), (-0.2,))
    (choice,), _ = Confidence(base=False).complete(pooled(), EXAMPLES[:1], GREEDY)
    assert asked[0][0] == MIXTURES[1:]
    assert (choice.label, choice.scores[OTHER]) == ("letters", 0.0)


def test_a_choice_alone_is_made_of_greedy_completions_of_its_own_length(scripted):
    asked = scripted((-0.1,), (-0.3,), (-0.2,))
    Confidence(max_new_tokens=9).choose(pooled(), EXAMPLES[:1])
    assert asked[0][1] == Sampling(max_new_tokens=9)


@pytest.mark.parametrize("change", [{"temperature": 1.0}, {"samples": 3, "temperature": 0.5, "top_p": 0.5}])
def test_sampled_answers_are_chosen_by_greedy_ones_and_made_in_a_second_pass(scripted, change):
    asked = scripted((-0.1,), (-0.3,), (-0.2,))
    choices, answers = Confidence().complete(pooled(), EXAMPLES[:1], replace(GREEDY, stop=("x",), **change))
    assert answers is None
    assert asked[0][1] == replace(GREEDY, stop=("x",))
    assert choices[0].label == OTHER


def test_log_probs_that_are_no_numbers_are_refused(scripted):
    scripted((-0.1,), (float("nan"),), (-0.2,))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Confidence().choose(pooled(), EXAMPLES[:1])


# With a model


@pytest.mark.parametrize("merging", [False, True])
def test_answers_are_those_of_the_chosen_expert_alone_and_there_is_no_second_pass(merging):
    model = pooled()
    generator = Merging(model.generator) if merging else model.generator
    strategy = Confidence()
    assert isinstance(strategy, CompletingStrategy)
    system = TwoPass(generator, model.pool, strategy)
    found = system.generate(EXAMPLES, GREEDY)
    alone = complete_merged(model, MIXTURES, EXAMPLES, GREEDY)
    means = torch.tensor([[sum(c.log_probs) / len(c.log_probs) for c in row] for row in alone])
    best = means.argmax(dim=0).tolist()
    assert [group[0].token_ids for group in found] == [alone[row][b].token_ids for b, row in enumerate(best)]
    assert [choice.mixture for choice in system.choices] == [MIXTURES[row] for row in best]
    assert len(set(best)) > 1, "the experts must matter"
    record = system.records[0]
    assert record.tokens == {"pass1": sum(len(c.token_ids) for row in alone for c in row), "pass2": 0}
    assert record.seconds.keys() == {"pass1", "pass2"}


def test_sampled_answers_come_from_a_second_pass_with_the_chosen_mixtures():
    model = pooled()
    system = TwoPass(model.generator, model.pool, Confidence())
    found = system.generate(EXAMPLES, replace(GREEDY, temperature=1.0, samples=2))
    assert [len(group) for group in found] == [2] * 4
    assert system.records[0].tokens["pass2"] == sum(len(c.token_ids) for group in found for c in group)


def test_first_entropy_is_that_of_the_first_token_and_decodes_nothing(monkeypatch):
    model = pooled()
    entropies = []
    for mixture in MIXTURES:
        with torch.no_grad(), model.adapter.merged(model.pool.state(mixture)):
            rows = [Completion(tuple(model.lm.encode(e)), (0,), (0.0,), "", "length") for e in EXAMPLES]
            entropies.append(token_log_probs(model.lm, rows).entropy[:, 0])
    certain = -torch.stack(entropies, dim=1)  # (B, D)
    monkeypatch.setattr(HFGenerator, "generate", None)
    choices, answers = Confidence("first_entropy").complete(model, EXAMPLES, GREEDY)
    assert answers is None
    assert [choice.mixture for choice in choices] == [MIXTURES[i] for i in certain.argmax(dim=1).tolist()]
    for choice, row in zip(choices, torch.softmax(certain, dim=1).tolist(), strict=True):
        assert list(choice.scores.values()) == pytest.approx(row, abs=1e-4)
        assert choice.tokens == 0
    monkeypatch.undo()
    system = TwoPass(model.generator, model.pool, Confidence("first_entropy"))
    system.generate(EXAMPLES, GREEDY)
    assert system.records[0].tokens["pass2"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "means"}, "strategy.measure is 'means'; allowed: first_entropy, mean, sum. Did you mean 'mean'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Confidence(**options)
