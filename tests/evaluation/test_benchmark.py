"""Benchmarks: support examples, domains, and what a run measures of each system."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import LetterTask

from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.evaluation.benchmark import Benchmark, labels_of, tasks_of
from t2.evaluation.scoring import evaluate
from t2.evaluation.solved_examples import choose_support
from t2.evaluation.systems import pool_systems
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.tasks.base import Split, Task
from t2.types import Example, Sampling

LABELS = ("math", "code", "other")


class Alternating:
    """Chooses math and the base in turn; remembers what it was fitted to."""

    name = "alternating"
    wants_support = True

    def __init__(self, *, labels: bool = True) -> None:
        self.labels = labels
        self.fitted: list[tuple[str, tuple[Example, ...]]] = []

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        self.fitted.append((task.name, tuple(support)))

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        both = [Choice(Mixture.of(1, 0), "math"), Choice(Mixture.base(2), "other")]
        return [both[i % 2] if self.labels else Choice(both[i % 2].mixture) for i in range(len(examples))]


def benchmark(*tasks: Task, **changes: Any) -> Benchmark:
    tasks = tasks or (LetterTask(),)
    sampling = {task.name: Sampling(max_new_tokens=4) for task in tasks}
    return Benchmark(tasks, **({"split": "val", "sampling": sampling} | changes))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 41}, "shots=41, and the train split of letters has 40 examples"),
        ({"shots": 1, "support_split": "test"}, "support_split=test"),
        ({"shots": 4, "support_split": "val"}, "support examples are among the 8 test examples"),
        ({"shots": -1}, "shots is -1"),
        ({"support_sets": 0}, "support_sets is 0"),
        ({"limit": 0}, "limit is 0; allowed: at least 1"),
        ({"workers": 0}, "score_workers is 0"),
    ],
)
def test_impossible_settings_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark(**changes)


@pytest.mark.parametrize("tasks", [(), (LetterTask(), LetterTask())])
def test_tasks_are_one_or_more_of_different_names(tasks: tuple[Task, ...]) -> None:
    with pytest.raises(ValueError, match="Name one task or more, each once"):
        Benchmark(tasks, split="val")


@pytest.mark.parametrize(
    ("domains", "found"), [(None, {}), ({"gcd": None, "mbpp": "code", "unused": "math"}, {"mbpp": "code"})]
)
def test_domains_of_the_tasks_that_have_one(domains: dict[str, str | None] | None, found: dict[str, str]) -> None:
    assert benchmark(LetterTask("gcd"), LetterTask("mbpp"), domains=domains).true_domains(LABELS) == found


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"gdc": "math"}, r"'gcd' is a benchmark without a domain: .* Did you mean 'gdc'\?"),
        ({"gcd": "maths"}, r"benchmark_domains.gcd is 'maths'; allowed: math, code, other. Did you mean 'math'"),
    ],
)
def test_a_domain_that_is_missing_or_no_label_is_an_error(domains: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark(LetterTask("gcd"), domains=domains).true_domains(LABELS)


def test_a_plain_generator_has_a_report_alone(generator: HFGenerator) -> None:
    compared = benchmark()
    (outcome,) = compared.run({"expert": generator})
    task, examples, sampling = compared.tasks[0], compared.examples["letters"], compared.sampling["letters"]
    assert outcome.report.scores == evaluate(generator, task, examples, sampling, system="expert").scores
    assert (outcome.mixing_weights, outcome.chosen) == ({}, ())
    assert outcome.report.seconds.keys() == {"rollout", "score"}


def test_a_strategy_is_fitted_to_each_task_before_it_is_scored(generator: HFGenerator, pool: ExpertPool) -> None:
    strategy, compared = Alternating(), benchmark(LetterTask(), LetterTask("others"), shots=3)
    outcome, other = compared.run({"a": TwoPass(generator, pool, strategy, pass2="per_example")})
    assert strategy.fitted == [(task, compared.supports[task][0]) for task in ("letters", "others")]
    assert (outcome.report.task, other.report.task) == ("letters", "others")
    assert outcome.chosen == ("math", "other") * 4
    assert outcome.mixing_weights == {"math": 0.5, "letters": 0.0}
    assert outcome.report.seconds.keys() == {"fit", "pass1", "pass2", "score"}


def test_a_strategy_is_fitted_to_every_support_set_under_its_number(generator: HFGenerator, pool: ExpertPool) -> None:
    strategy, compared = Alternating(), benchmark(shots=3, support_sets=3)
    systems = pool_systems(generator, pool, {"mine": strategy}, singles=False, uniform=False, all_at_1=False,
                           support_sets=3)  # fmt: skip
    outcomes = compared.run(systems)
    assert [one.report.system for one in outcomes] == ["mine#1", "mine#2", "mine#3"]
    sets = compared.supports["letters"]
    assert [support for _, support in strategy.fitted] == sets
    assert sets[0] == benchmark(shots=3).supports["letters"][0], "more sets change none of the first"
    assert all(a != b for a, b in itertools.combinations(sets, 2))
    assert compared.solved["letters"] == [one for of in sets for one in of]


def test_seconds_are_those_of_one_task(generator: HFGenerator, pool: ExpertPool) -> None:
    two_pass = TwoPass(generator, pool, Alternating(), pass2="per_example")
    outcomes = benchmark(LetterTask(), LetterTask("others")).run({"a": two_pass})
    for part in ("pass1", "pass2"):
        total = sum(outcome.report.seconds[part] for outcome in outcomes)
        assert total == pytest.approx(two_pass.phases.total_seconds[part])


def test_a_system_without_labels_has_chosen_nothing(generator: HFGenerator, pool: ExpertPool) -> None:
    (outcome,) = benchmark().run({"a": TwoPass(generator, pool, Alternating(labels=False), pass2="per_example")})
    assert outcome.chosen == ()


def test_known_outcomes_are_not_measured_again(generator: HFGenerator) -> None:
    compared = benchmark(limit=2)
    known = compared.run({"base": generator})
    again = compared.run({"base": generator, "other": generator}, known=known)
    assert again[0] is known[0]
    assert [outcome.report.system for outcome in again] == ["base", "other"]


def test_controls_are_left_out_of_other_domains(generator: HFGenerator) -> None:
    systems = {"base": generator, "shuffled:math": generator, "shuffled:code": generator}
    outcomes = benchmark(limit=1).run(systems, domains={"letters": "code"})
    assert [outcome.report.system for outcome in outcomes] == ["base", "shuffled:code"]


def test_labels_are_the_domains_and_other(pool) -> None:
    assert labels_of(pool) == ("math", "letters", "other")


def test_the_domains_among_benchmarks_are_no_task(letter_task) -> None:
    assert tasks_of({"benchmark_domains": {"letters": "math"}, "letters": letter_task}) == [letter_task]


def test_one_task_of_a_set(letter_task) -> None:
    benchmarks = {"letters": letter_task, "more": copy.copy(letter_task), "benchmark_domains": {}}
    assert tasks_of(benchmarks, "more") == [benchmarks["more"]]
    with pytest.raises(ValueError, match=r"only=leters; the set has letters, more\. Did you mean 'letters'"):
        tasks_of(benchmarks, "leters")
    with pytest.raises(ValueError, match="only=benchmark_domains"):
        tasks_of(benchmarks, "benchmark_domains")
