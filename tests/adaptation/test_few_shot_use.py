"""Few-shot adaptation: the mixture that was found, what is refused, and the YAML."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import ROOT
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_models import same_states
from tiny_pool import pooled

from t2.adaptation.few_shot import FewShot, check_disjoint
from t2.adaptation.fitness import Likelihood
from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import SearchSettings
from t2.adaptation.strategy import Choice
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture
from t2.types import Example, PixelImage
from tests.adaptation.few_shot_setup import QUICK, few_shot, fitted


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


def test_likelihood_is_raised_by_the_search():
    task = Letters("")
    strategy = fitted(task, fitness="likelihood", search=SearchSettings(population=10, iterations=6))
    base = Likelihood(pooled(), task, SUPPORT)([Mixture.base(2)])[0].value
    assert strategy.history[-1].best > base + 1e-3


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
