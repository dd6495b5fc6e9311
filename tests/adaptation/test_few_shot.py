"""Few-shot adaptation on a tiny model: what it finds, what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from tiny_pool import pooled

from t2.adaptation import few_shot as few_shot_module
from t2.adaptation.fitness import Accuracy, Likelihood
from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import Fitness, SearchSettings
from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from tests.adaptation.few_shot_setup import QUICK, TARGET, distance, few_shot, fitted


@pytest.mark.parametrize("optimizer", ["cem", "cmaes"])
def test_finds_the_best_mixture(by_distance, optimizer):
    strategy = fitted(search=SearchSettings(optimizer, population=20, iterations=25))
    assert strategy.mixture is not None
    assert distance(strategy.mixture) < 1e-3


@pytest.mark.parametrize("fitness", ["accuracy", "likelihood"])
@pytest.mark.parametrize("per_matrix", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_is_never_worse_on_the_support_than_the_base_and_uniform(fitness, per_matrix, normalize):
    model, task = pooled(), Letters("E" if fitness == "accuracy" else "")
    strategy = few_shot(fitness=fitness, space=MixtureSpace(per_matrix=per_matrix, normalize=normalize))
    strategy.fit(model, task, SUPPORT)
    measure = (Accuracy if fitness == "accuracy" else Likelihood)(model, task, SUPPORT)
    found, base, uniform = measure([strategy.mixture, Mixture.base(2), Mixture.of(0.5, 0.5)])
    assert found.value >= max(base.value, uniform.value) - 1e-4
    assert found.value == pytest.approx(strategy.history[-1].best, abs=1e-4)


def test_the_base_is_kept_where_nothing_is_better(monkeypatch):
    monkeypatch.setattr(few_shot_module, "Accuracy", lambda *_: lambda mixtures: [Fitness(0.5)] * len(mixtures))
    strategy = fitted(space=MixtureSpace(low=0.5, high=1.0, normalize=True, rule="paper"))
    assert strategy.mixture == Mixture.base(2)


def test_no_mixture_is_evaluated_twice_and_the_history_tells_every_iteration(by_distance):
    strategy = fitted(search=SearchSettings(population=12, iterations=8))
    assert by_distance[0][:2] == [Mixture.base(2), Mixture.of(0.5, 0.5)]
    asked = [mixture for call in by_distance for mixture in call]
    assert len(asked) == len(set(asked)) == 12 + 7 * 11  # the best so far is member 0 of the other generations
    assert strategy.mixture == min(asked, key=distance)
    history = strategy.history
    assert [line.iteration for line in history] == list(range(8))
    assert [line.best for line in history] == sorted(line.best for line in history)
    assert all(line.mean <= line.best for line in history)
    assert history[-1].weight_mean == pytest.approx(TARGET, abs=0.3)
    assert max(history[-1].weight_std) < min(history[0].weight_std)


def test_members_that_are_one_mixture_are_evaluated_once(by_distance):
    fitted(space=MixtureSpace(low=0.0, high=1e-7))  # all round to the base
    assert by_distance[0] == [Mixture.base(2), Mixture.of(0.5, 0.5)]
    assert [len(call) for call in by_distance] == [2]


def test_a_seed_and_a_second_fit_repeat_and_another_seed_does_not(by_distance):
    strategy, again, other = (fitted(seed=seed) for seed in (1, 1, 2))
    first = strategy.mixture, strategy.history
    assert (again.mixture, again.history) == first
    assert other.mixture != strategy.mixture
    strategy.fit(pooled(), Letters(), SUPPORT)
    assert (strategy.mixture, strategy.history) == first


def test_per_matrix_weights_differ_between_matrices():
    model = pooled()
    strategy = few_shot(space=MixtureSpace(low=0.1, per_matrix=True), search=replace(QUICK, population=12))
    strategy.fit(model, Letters("E"), SUPPORT)
    rows = strategy.mixture.weights
    assert {len(row) for row in rows} == {len(model.pool.modules)}
    assert strategy.mixture == Mixture.base(2) or len(set(rows[0])) > 1


def test_normalized_weights_sum_to_1_and_the_rule_reaches_every_mixture_but_the_base(by_distance):
    strategy = fitted(space=MixtureSpace(normalize=True, rule="paper"))
    tried = [m for call in by_distance for m in call if any(m.means)]
    assert all(sum(m.means) == pytest.approx(1, abs=1e-5) for m in [*tried, strategy.mixture])
    assert {m.rule for m in tried} == {"paper"}
    assert by_distance[0][0] == Mixture.base(2)


@pytest.mark.parametrize(
    ("liked", "expected"),
    [
        (lambda space: Fitness(0.5), (False, False)),
        (lambda space: Fitness(float(space.normalize)), (False, True)),
        (lambda space: Fitness(float(space.per_matrix and space.normalize)), (True, True)),
        (lambda space: Fitness(1.0, -1.0 if space.per_matrix else -3.0), (True, False)),  # equal values: by likelihood
    ],
)
def test_the_configuration_is_chosen_by_support_fitness(monkeypatch, liked, expected):
    current = []

    def mixture(self, member, experts):
        current[:] = [self]
        return original(self, member, experts)

    original = MixtureSpace.mixture
    monkeypatch.setattr(MixtureSpace, "mixture", mixture)
    monkeypatch.setattr(few_shot_module, "Accuracy", lambda *_: lambda mixtures: [liked(current[0])] * len(mixtures))
    strategy = fitted(search_configurations=True)
    chosen = strategy._fitted.space
    assert (chosen.per_matrix, chosen.normalize) == expected
    assert len(strategy.history) == 4 * QUICK.iterations
    assert len({(line.per_matrix, line.normalize) for line in strategy.history}) == 4


def test_only_the_first_shots_are_used(monkeypatch):
    seen = []

    def accuracy(model, task, examples):
        seen.append(examples)
        return lambda mixtures: [Fitness(0.0)] * len(mixtures)

    monkeypatch.setattr(few_shot_module, "Accuracy", accuracy)
    fitted(shots=2)
    assert seen == [SUPPORT[:2]]


def test_not_fitted_or_with_too_few_examples(tmp_path):
    with pytest.raises(ValueError, match="call fit"):
        few_shot().choose(pooled(), SUPPORT)
    with pytest.raises(ValueError, match="call fit"):
        few_shot().save(tmp_path / "mixture.json", pooled().pool, Letters())
    assert few_shot().mixture is None
    assert few_shot().history == ()
    with pytest.raises(ValueError, match=r"4 support examples of letters.*shots=5"):
        fitted(shots=5)


def test_a_fitness_that_is_no_number_is_refused_and_the_last_mixture_kept(monkeypatch, by_distance):
    strategy = fitted()
    before = strategy.mixture, strategy.history

    class Broken(Letters):
        def score(self, example, text):
            return float("nan")

    monkeypatch.setattr(few_shot_module, "Accuracy", Accuracy)
    with pytest.raises(ValueError, match="scored nan"):
        strategy.fit(pooled(), Broken(), SUPPORT)
    assert (strategy.mixture, strategy.history) == before


@pytest.mark.parametrize("change", ["numbers", "order", "one more"])
def test_another_pool_is_refused(by_distance, tmp_path, change):
    strategy, model = few_shot(), pooled()
    strategy.fit(model, Letters(), SUPPORT)
    math = model.pool.experts["math"]
    scaled = Expert({name: z * 1.01 for name, z in math.scales.items()}, math.metadata)
    other = {
        "numbers": lambda pool: pool.with_expert("math", scaled),
        "order": lambda pool: replace(pool, experts=dict(reversed(pool.experts.items()))),
        "one more": lambda pool: pool.with_expert("more", scaled),
    }[change](model.pool)
    with pytest.raises(ValueError, match="Fit again"):
        strategy.choose(replace(model, pool=other), SUPPORT)
    with pytest.raises(ValueError, match="Fit again"):
        strategy.save(tmp_path / "mixture.json", other, Letters())
    assert not list(tmp_path.iterdir())
