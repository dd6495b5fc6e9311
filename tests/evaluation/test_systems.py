"""The systems of a pool: who is there, under which name, fitted to what, and what of them is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from conftest import LetterTask
from tiny_pool import DOMAINS, tiny_generator, tiny_pool

from t2.adaptation.fixed import Base, Fixed
from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.evaluation.benchmark import choose_support, labels_of, tasks_of
from t2.evaluation.evaluate import evaluate
from t2.evaluation.report import Report
from t2.evaluation.systems import Outcome, measure, name_strategies, pool_systems, summarize_adaptation
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.tasks.base import Split, Task
from t2.types import Example, Sampling

SAMPLING = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def generator() -> HFGenerator:
    return tiny_generator()


@pytest.fixture(scope="module")
def pool(generator: HFGenerator) -> ExpertPool:
    return tiny_pool(generator)


class Alternating:
    """Chooses math and the base in turn; remembers what it was fitted to."""

    name = "alternating"

    def __init__(self, *, labels: bool = True) -> None:
        self.labels = labels
        self.fitted: list[tuple[str, tuple[Example, ...]]] = []

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        self.fitted.append((task.name, tuple(support)))

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        both = [Choice(Mixture.of(1, 0), "math"), Choice(Mixture.base(2), "other")]
        return [both[i % 2] if self.labels else Choice(both[i % 2].mixture) for i in range(len(examples))]


def test_singles_uniform_and_strategies_have_names_in_this_order(generator, pool) -> None:
    systems = pool_systems(generator, pool, {"mine": Alternating()})
    assert list(systems) == ["expert:math", "expert:letters", "uniform", "mine"]


def test_singles_and_uniform_can_be_left_out(generator, pool) -> None:
    assert list(pool_systems(generator, pool, {"mine": Alternating()}, singles=False, uniform=False)) == ["mine"]


def test_a_strategy_called_uniform_takes_the_place_and_base_adds_nothing(generator, pool) -> None:
    mine = Fixed(uniform=0.7, name="uniform")
    systems = pool_systems(generator, pool, {"uniform": mine, "base": Base()}, singles=False)
    assert list(systems) == ["uniform"]
    assert systems["uniform"].strategy is mine


def test_single_experts_and_uniform_answer_as_their_merged_weights(generator, pool, letter_task) -> None:
    examples = letter_task.split("val")
    systems = pool_systems(generator, pool, {})
    weights = {"expert:math": (1, 0), "expert:letters": (0, 1), "uniform": (0.5, 0.5)}
    answers = {}
    for name, weight in weights.items():
        merged = generator.with_state(pool.state(Mixture.of(*weight))).generate(examples, SAMPLING)
        answers[name] = [group[0].token_ids for group in merged]
        assert [group[0].token_ids for group in systems[name].generate(examples, SAMPLING)] == answers[name]
    assert answers["expert:math"] != answers["expert:letters"]  # else the test could not fail


def test_strategies_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Two strategies are called 'alternating'.*\+strategy@strategies.NAME"):
        name_strategies(Alternating(), {"alternating": Alternating()})


@pytest.mark.parametrize("name", ["expert", "expert:math", "base"])
def test_names_of_other_systems_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"No strategy may be called '{name}'"):
        name_strategies(None, {name: Alternating()})


def test_the_single_strategy_comes_first() -> None:
    assert list(name_strategies(Alternating(), {"b": Base(), "a": Base()})) == ["alternating", "b", "a"]


def test_support_is_seeded_and_fewer_are_the_first_of_more(letter_task: LetterTask) -> None:
    def draw(shots: int, seed: int = 0) -> tuple[Example, ...]:
        return choose_support(letter_task, shots=shots, split="train", seed=seed, scored=letter_task.split("test"))

    ten = draw(10)
    assert ten == draw(10)
    assert draw(3) == ten[:3]
    assert draw(10, seed=1) != ten
    assert sorted(e.prompt for e in draw(40)) == sorted(e.prompt for e in letter_task.split("train"))


def test_no_shots_ask_for_no_split() -> None:
    class Untrained(LetterTask):
        def split(self, split: Split) -> Sequence[Example]:
            raise ValueError(f"no {split}")

    assert choose_support(Untrained(), shots=0, split="train", seed=0, scored=[]) == ()


def test_more_shots_than_examples_are_an_error(letter_task: LetterTask) -> None:
    with pytest.raises(ValueError, match="shots=41, and the train split of letters has 40 examples"):
        choose_support(letter_task, shots=41, split="train", seed=0, scored=[])


def test_support_never_comes_from_the_test_split(letter_task: LetterTask) -> None:
    with pytest.raises(ValueError, match="support_split=test"):
        choose_support(letter_task, shots=1, split="test", seed=0, scored=[])


def test_support_among_the_scored_is_refused(letter_task: LetterTask) -> None:
    with pytest.raises(ValueError, match="support examples are among the 8 test examples"):
        choose_support(letter_task, shots=4, split="val", seed=0, scored=letter_task.split("val"))


def test_negative_shots_are_refused(letter_task: LetterTask) -> None:
    with pytest.raises(ValueError, match="shots is -1"):
        choose_support(letter_task, shots=-1, split="train", seed=0, scored=[])


def test_a_plain_generator_is_measured_as_ever(generator, letter_task) -> None:
    examples = letter_task.split("val")
    outcome = measure(generator, letter_task, examples, SAMPLING, system="expert")
    assert outcome.report.scores == evaluate(generator, letter_task, examples, SAMPLING, system="expert").scores
    assert (outcome.weights, outcome.chosen) == ({}, ())
    assert outcome.report.seconds.keys() == {"rollout", "score"}


def test_a_strategy_is_fitted_to_the_task_before_it_answers(generator, pool, letter_task) -> None:
    strategy, examples = Alternating(), letter_task.split("val")
    support = choose_support(letter_task, shots=3, split="train", seed=0, scored=examples)
    two_pass = TwoPass(generator, pool, strategy, pass2="per_example")
    outcome = measure(two_pass, letter_task, examples, SAMPLING, system="a", support=support)
    assert strategy.fitted == [("letters", support)]
    assert outcome.chosen == ("math", "other") * 4
    assert outcome.weights == {"math": 0.5, "letters": 0.0}
    assert outcome.report.seconds.keys() == {"fit", "pass1", "pass2", "score"}


def test_seconds_are_those_of_one_measurement(generator, pool, letter_task) -> None:
    two_pass = TwoPass(generator, pool, Alternating(), pass2="per_example")
    outcomes = [measure(two_pass, letter_task, letter_task.split("val"), SAMPLING, system="a") for _ in range(2)]
    total = sum(outcome.report.seconds["pass2"] for outcome in outcomes)
    assert total == pytest.approx(two_pass.phases.total_seconds["pass2"])


def test_a_system_without_labels_has_chosen_nothing(generator, pool, letter_task) -> None:
    two_pass = TwoPass(generator, pool, Alternating(labels=False), pass2="per_example")
    assert measure(two_pass, letter_task, letter_task.split("val"), SAMPLING, system="a").chosen == ()


def outcome(task: str, system: str, chosen: tuple[str, ...]) -> Outcome:
    seconds = {"fit": 0.0, "pass1": 1.0, "pass2": 2.0, "score": 0.0}
    report = Report(task, system, (), (), (0.0,), None, seconds)
    return Outcome(report, {"math": 0.25, "letters": 0.5}, chosen)


def test_confusion_is_over_the_tasks_that_have_a_domain() -> None:
    outcomes = [
        outcome("sums", "prompt", ("math", "other")),
        outcome("spelling", "prompt", ("letters", "math")),
        outcome("poems", "prompt", ("math", "math")),
        outcome("sums", "few_shot", ()),
    ]
    labels = (*DOMAINS, "other")
    parts = summarize_adaptation(outcomes, domains={"sums": "math", "spelling": "letters"}, labels=labels)
    assert parts["confusion"] == {"prompt": {"labels": list(labels), "counts": ((1, 0, 1), (1, 1, 0), (0, 0, 0))}}
    assert parts["weights"]["sums"]["few_shot"] == {"math": 0.25, "letters": 0.5}
    assert parts["pass_seconds"]["poems"]["prompt"] == {"pass1": 1.0, "pass2": 2.0}


def test_labels_are_the_domains_and_other(pool) -> None:
    assert labels_of(pool) == ("math", "letters", "other")


def test_the_domains_among_benchmarks_are_no_task(letter_task) -> None:
    assert tasks_of({"benchmark_domains": {"letters": "math"}, "letters": letter_task}) == [letter_task]
