"""Few-shot adaptation on a tiny model: what it finds, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from conftest import ROOT
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_models import same_states
from tiny_pool import pooled

from t2.adaptation import few_shot as few_shot_module
from t2.adaptation.few_shot import FewShot, check_disjoint
from t2.adaptation.fitness import Accuracy, Likelihood
from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import Fitness, SearchSettings
from t2.adaptation.strategy import Choice
from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture
from t2.types import Example, PixelImage

QUICK = SearchSettings(population=6, iterations=3, elite_share=0.4)
TARGET = (0.3, 1.2)


def fitted(task=None, **arguments) -> FewShot:
    strategy = few_shot(**arguments)
    strategy.fit(pooled(), task or Letters(), SUPPORT)
    return strategy


def few_shot(shots=4, search=QUICK, **arguments) -> FewShot:
    return FewShot(shots, search=search, progress=False, **arguments)


def distance(mixture: Mixture) -> float:
    return sum((mean - goal) ** 2 for mean, goal in zip(mixture.means, TARGET, strict=True))


@pytest.fixture
def by_distance(monkeypatch):
    """Fitness without a model: the nearer the mean mixing weights are to TARGET, the better; calls are recorded."""
    calls: list[list[Mixture]] = []

    def measure(mixtures):
        calls.append(list(mixtures))
        return [Fitness(-distance(mixture)) for mixture in mixtures]

    monkeypatch.setattr(few_shot_module, "Accuracy", lambda *_: measure)
    return calls


@pytest.mark.parametrize("optimizer", ["cem", "cmaes"])
def test_finds_the_best_mixture(by_distance, optimizer):
    strategy = fitted(search=SearchSettings(optimizer, population=20, iterations=25))
    assert strategy.mixture is not None
    assert distance(strategy.mixture) < 1e-3


@pytest.mark.parametrize("fitness", ["accuracy", "likelihood"])
@pytest.mark.parametrize("per_matrix", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_is_never_worse_on_the_support_than_the_base_and_uniform(fitness, per_matrix, normalize):
    model, task = pooled(), Letters("E")
    strategy = few_shot(fitness=fitness, space=MixtureSpace(per_matrix=per_matrix, normalize=normalize))
    strategy.fit(model, task, SUPPORT)
    measure = Accuracy(model, task, SUPPORT) if fitness == "accuracy" else Likelihood(model, SUPPORT)
    found, base, uniform = measure([strategy.mixture, Mixture.base(2), Mixture.of(0.5, 0.5)])
    assert found.value >= max(base.value, uniform.value) - 1e-4
    assert found.value == pytest.approx(strategy.history[-1].best, abs=1e-4)


def test_the_base_is_kept_where_nothing_is_better(monkeypatch):
    monkeypatch.setattr(few_shot_module, "Accuracy", lambda *_: lambda mixtures: [Fitness(0.5)] * len(mixtures))
    strategy = fitted(space=MixtureSpace(low=0.5, high=1.0, normalize=True, rule="paper"))
    assert strategy.mixture == Mixture.base(2)


def test_the_best_is_evaluated_again_as_member_0_and_the_history_tells_every_iteration(by_distance):
    strategy = fitted(search=SearchSettings(population=12, iterations=8))
    assert by_distance[0][:2] == [Mixture.base(2), Mixture.of(0.5, 0.5)]
    for before, call in pairwise(by_distance):
        assert call[0] == min([*before, call[0]], key=distance)
    assert strategy.mixture == min(by_distance[-1], key=distance)
    history = strategy.history
    assert [line.iteration for line in history] == list(range(8))
    assert [line.best for line in history] == sorted(line.best for line in history)
    assert all(line.mean <= line.best for line in history)
    assert history[-1].weight_mean == pytest.approx(TARGET, abs=0.3)
    assert max(history[-1].weight_std) < min(history[0].weight_std)


def test_members_that_are_one_mixture_are_evaluated_once(by_distance):
    fitted(space=MixtureSpace(low=0.0, high=1e-7))  # all round to the base
    assert by_distance[0] == [Mixture.base(2), Mixture.of(0.5, 0.5)]
    assert [len(call) for call in by_distance] == [2, 2, 2]


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


def test_every_example_gets_the_mixture_and_saved_it_comes_back_with_its_history(by_distance, tmp_path):
    strategy, model, path = few_shot(seed=5), pooled(), tmp_path / "mixture.json"
    strategy.fit(model, Letters(), SUPPORT)
    assert strategy.choose(model, SUPPORT[:3]) == [Choice(strategy.mixture)] * 3
    assert strategy.choose(model, []) == []
    strategy.save(path, model.pool, Letters())
    assert load_mixture(path, model.pool) == strategy.mixture
    content = json.loads(path.read_text())
    assert (content["strategy"], content["task"], content["seed"]) == ("few_shot", "letters", 5)
    details = content["details"]
    assert [line["best"] for line in details["history"]] == [line.best for line in strategy.history]
    assert details["support"] == [example.prompt for example in SUPPORT]
    assert details["search"]["population"] == QUICK.population


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 0}, "shots is 0"),
        ({"fitness": "acuracy"}, "Did you mean 'accuracy'"),
        ({"space": MixtureSpace(low=-1.0), "search_configurations": True}, "cannot be normalized"),
    ],
)
def test_choices_that_cannot_be_followed_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewShot(**arguments)


def test_likelihood_is_raised_by_the_search_and_counts_the_end_of_the_turn_on_request():
    model, found = pooled(), []
    for end_of_turn in (False, True):
        strategy = fitted(
            fitness="likelihood", end_of_turn=end_of_turn, search=SearchSettings(population=10, iterations=6)
        )
        found.append(strategy.history[0].mean)
        base = Likelihood(model, SUPPORT, end_of_turn=end_of_turn)([Mixture.base(2)])[0].value
        assert strategy.history[-1].best > base + 1e-3
    assert found[0] != found[1]


def test_the_model_is_left_as_it_was():
    model = pooled()
    model.adapter.load(model.pool.experts["math"].scales)
    before = model.adapter.state()
    few_shot().fit(model, Letters(), SUPPORT)
    assert same_states(model.adapter.state(), before)


def test_support_among_the_test_examples_is_refused_unless_it_is_about_another_image():
    check_disjoint(SUPPORT, [Example("other"), Example("one more")])
    check_disjoint([], SUPPORT)
    with pytest.raises(ValueError, match=r"1 of 4 support examples are among the 2 test.*'a longer question'"):
        check_disjoint(SUPPORT, [Example("other"), Example(" a longer question\n", "another answer")])
    first, second = (Example("which?", images=(PixelImage(bytes([n]), (1, 1)),)) for n in (0, 1))
    check_disjoint([first], [second])
    with pytest.raises(ValueError, match="1 of 1 support examples"):
        check_disjoint([first], [second, replace(first, answer="yes")])


def from_yaml(*overrides: str, **root: int) -> FewShot:
    given = [f"+{key}={value}" for key, value in {"seed": 0, **root}.items()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose(overrides=["+strategy=few_shot", *given, *(f"strategy.{one}" for one in overrides)])
    return instantiate(composed.strategy)


def test_the_yaml_makes_a_whole_strategy_with_the_defaults_and_the_shots_of_the_script():
    strategy = from_yaml("search.optimizer=cmaes", "space.high=1.0", seed=7)
    assert (strategy.name, strategy.seed, strategy.search.optimizer) == ("few_shot", 7, "cmaes")
    assert strategy.spaces == [MixtureSpace(high=1.0)]
    assert from_yaml(shots=3).shots == 3
    assert from_yaml("shots=5", shots=3).shots == 5
    assert vars(from_yaml()) == vars(FewShot())
