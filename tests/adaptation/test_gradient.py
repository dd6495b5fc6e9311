"""Few-shot adaptation by gradient: the gradient is that of the mixture, what is learned from, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from tiny_models import same_states
from tiny_pool import pooled

from t2.adaptation import gradient as module
from t2.adaptation.fitness import Accuracy
from t2.adaptation.gradient import Gradient, GradientSettings, backward
from t2.adaptation.strategy import Choice, PooledModel
from t2.evaluation.systems import Searcher
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Sampling

QUICK = GradientSettings(rounds=2, samples=3, steps=2)


def learner(shots=4, settings=QUICK, **arguments) -> Gradient:
    return Gradient(shots, settings, progress=False, **arguments)


def some_completions(model: PooledModel) -> list[Completion]:
    groups = model.generator.with_state({}).generate(SUPPORT, Sampling(max_new_tokens=5, temperature=1.0, samples=2))
    return [one for group in groups for one in group]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("budget", [8, 1024])
@pytest.mark.parametrize("per_matrix", [False, True])
def test_the_gradient_is_the_change_of_the_objective_under_merged_mixtures(
    monkeypatch, per_matrix, budget, temperature
):
    monkeypatch.setattr(module, "MICRO_BATCH_TOKENS", budget)
    model = pooled()
    completions, shares = some_completions(model), [0.5, -0.25, 0.0, 1.0, 0.1, 0.2, 0.3, 0.0]
    columns = len(model.pool.modules) if per_matrix else 1
    weights = torch.full((2, columns), 0.7, requires_grad=True)
    backward(model, weights, completions, shares, temperature=temperature)

    def objective(at: torch.Tensor) -> float:
        state = model.pool.state(Mixture(tuple(map(tuple, at.tolist()))))
        with torch.no_grad(), model.adapter.merged(state):
            rows = [token_log_probs(model.lm, [one], temperature=temperature) for one in completions]
            means = [float(row.log_probs.mean()) for row in rows]
        return -sum(share * mean for share, mean in zip(shares, means, strict=True))

    for expert, column in [(0, 0), (1, columns - 1)]:
        step = torch.zeros_like(weights)
        step[expert, column] = 0.02
        with torch.no_grad():
            change = (objective(weights + step) - objective(weights - step)) / 0.04
        assert float(weights.grad[expert, column]) == pytest.approx(change, abs=2e-3)
    assert all(z.grad is None for z in model.adapter.trainable())


SCORES = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [1.0, 1.0, 1.0]])


def test_right_completions_share_their_example_and_examples_without_one_do_not_count():
    shares = learner()._shares(SCORES)
    expected = torch.tensor([[0.5, 0.0, 0.5], [0.0] * 3, [1.0, 0.0, 0.0], [1 / 3] * 3]) / 3
    torch.testing.assert_close(shares, expected)
    assert not learner()._shares(torch.zeros(2, 3)).any()


def test_policy_gradient_compares_with_the_other_samples_of_the_example():
    shares = learner(settings=GradientSettings("policy_gradient"))._shares(SCORES)
    expected = torch.tensor([[0.5, -1.0, 0.5], [0.0] * 3, [0.5, -0.25, -0.25], [0.0] * 3]) / 12
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize("loss", ["likelihood", "policy_gradient"])
def test_steps_raise_the_objective(loss):
    model, strategy = pooled(), learner(settings=GradientSettings(loss))
    completions, shares = some_completions(model), [0.2, 0.0, 0.3, 0.1, -0.1, 0.0, 0.1, 0.2]
    weights, seen = torch.ones(2, 1, requires_grad=True), []
    adam = torch.optim.Adam([weights], lr=strategy.settings.lr)
    for _ in range(6):
        adam.zero_grad()
        backward(model, weights, completions, shares)
        adam.step()
        with torch.no_grad(), model.adapter.merged(model.pool.state(module._mixture(weights))):
            means = token_log_probs(model.lm, completions).log_probs.sum(1) / torch.tensor(
                [len(one.token_ids) for one in completions]
            )
        seen.append(float((means * torch.tensor(shares)).sum()))
    assert seen[-1] > seen[0]


@pytest.mark.parametrize("per_matrix", [False, True])
def test_it_starts_from_all_at_1_and_is_never_worse_on_the_support_than_base_uniform_and_all_at_1(per_matrix):
    model, task = pooled(), Letters("E")
    strategy = learner(per_matrix=per_matrix)
    assert isinstance(strategy, Searcher)
    strategy.fit(model, task, SUPPORT)
    given = [Mixture.base(2), Mixture.of(0.5, 0.5), Mixture.of(1, 1)]
    found, *others = Accuracy(model, task, SUPPORT)([strategy.mixture, *given])
    assert found.value >= max(one.value for one in others)
    assert [line.iteration for line in strategy.history] == [0, 1]
    assert strategy.history[-1].best == found.value
    first = torch.tensor(strategy.history[0].weight_mean)
    assert (first - 1).abs().max() <= QUICK.steps * QUICK.lr + 1e-4  # Adam moves by at most lr a step
    assert not torch.equal(first, torch.ones(2))
    assert any(line.weight_std != (0.0, 0.0) for line in strategy.history) == per_matrix


def test_the_base_is_kept_where_nothing_is_right_and_no_step_is_made():
    strategy = learner()
    strategy.fit(pooled(), Letters("\x00"), SUPPORT)
    assert strategy.mixture == Mixture.base(2)
    assert {line.weight_mean for line in strategy.history} == {(1.0, 1.0)}


@pytest.mark.parametrize(("loss", "expected"), [("policy_gradient", 0.5), ("likelihood", 1.0)])
def test_a_policy_gradient_is_of_the_distribution_that_is_sampled(monkeypatch, loss, expected):
    seen = []
    monkeypatch.setattr(Gradient, "_shares", lambda _, scores: torch.ones_like(scores))
    monkeypatch.setattr(module, "backward", lambda *_, temperature: seen.append(temperature))
    learner(settings=replace(QUICK, loss=loss, temperature=0.5)).fit(pooled(), Letters(""), SUPPORT)
    assert set(seen) == {expected}


def test_samples_are_drawn_anew_each_round_under_the_present_mixture(monkeypatch):
    model, strategy, seen = pooled(), learner(), []
    sample = Gradient._sample

    def noting(self, *arguments):
        completions, scores = sample(self, *arguments)
        seen.append((arguments[3], [one.token_ids for one in completions]))
        return completions, scores

    monkeypatch.setattr(Gradient, "_sample", noting)
    strategy.fit(model, Letters(""), SUPPORT)
    (first, drawn), (second, again) = seen
    assert first == Mixture.of(1, 1)
    assert second.means == pytest.approx(strategy.history[0].weight_mean)
    assert drawn != again
    assert len(drawn) == len(SUPPORT) * QUICK.samples


def test_a_seed_repeats_and_another_does_not():
    one, again, other = (learner(seed=seed) for seed in (1, 1, 2))
    for strategy in (one, again, other):
        strategy.fit(pooled(), Letters(""), SUPPORT)
    assert one.history == again.history
    assert one.history != other.history


def test_what_the_adapter_has_learned_stays_and_does_not_matter():
    model, strategy, expected = pooled(), learner(), learner()
    expected.fit(model, Letters(""), SUPPORT)
    learned = model.pool.state(Mixture.of(0, 1))
    model.adapter.load(learned)
    strategy.fit(model, Letters(""), SUPPORT)
    assert strategy.history == expected.history
    assert same_states(model.adapter.state(), learned)


def test_the_mixture_is_saved_with_its_settings_and_serves_all_examples(tmp_path):
    model, strategy = pooled(), learner(per_matrix=True)
    strategy.fit(model, Letters(""), SUPPORT)
    strategy.save(tmp_path / "mixture.json", model.pool, Letters(""))
    assert load_mixture(tmp_path / "mixture.json", model.pool) == strategy.mixture
    content = json.loads((tmp_path / "mixture.json").read_text())
    assert content["strategy"] == "gradient"
    assert content["details"]["settings"]["samples"] == 3
    assert strategy.choose(model, SUPPORT) == [Choice(strategy.mixture)] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "likelyhood"}, "Did you mean 'likelihood'"),
        ({"loss": "policy_gradient", "samples": 1}, "samples is 1; allowed: at least 2"),
        ({"samples": 0}, "samples is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientSettings(**options)


def test_not_fitted_or_without_what_it_needs():
    model = pooled()
    with pytest.raises(ValueError, match="gradient has no mixture yet"):
        learner().choose(model, SUPPORT)
    with pytest.raises(ValueError, match="4 support examples of letters were given for shots=5"):
        learner(5).fit(model, Letters(), SUPPORT)
    model.generator.adapter = object()
    with pytest.raises(ValueError, match="object has no gradient in mixing weights"):
        learner().fit(replace(model), Letters(), SUPPORT)
