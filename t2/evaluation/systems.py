"""The systems that an evaluation sets side by side, and what each did on a task beyond its score.

    base            the model with its adapter off; every other system is paired with it
    expert:DOMAIN   one expert of the pool, for all examples
    uniform         every expert with mixing weight 1/K
    CONTROL:DOMAIN  one expert with its multipliers shuffled, reversed or random (paper, Table 5): where this does as
                    well, what was learned about single singular values does not matter
    NAME            a strategy, fitted to each task before it answers

With the exception of `base` all are two-pass systems, so that seconds and mixtures are known of each. Support examples
are drawn here, never from the test split. Nothing here draws, writes or reads a configuration.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from t2.adaptation.few_shot import Iteration
from t2.adaptation.fixed import Base, Fixed
from t2.adaptation.strategy import PooledModel, Strategy
from t2.adaptation.two_pass import Pass2, TwoPass
from t2.evaluation.evaluate import evaluate
from t2.evaluation.report import Report
from t2.evaluation.statistics import confusion_matrix
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.experts.transfer import Control
from t2.experts.transfer import transfer as transfer_expert
from t2.policy.generator import AdaptableGenerator, Generator
from t2.tasks.base import Task
from t2.types import Example, Sampling

log = logging.getLogger(__name__)
BASE, UNIFORM, EXPERT = "base", "uniform", "expert"  # names of systems
PASSES = ("pass1", "pass2")


@runtime_checkable
class Searcher(Strategy, Protocol):
    """A strategy that finds one mixture for a task, and can save it."""

    mixture: Mixture | None
    history: Sequence[Iteration]

    def save(self, path: Path, pool: ExpertPool, task: Task) -> None:
        """Write the mixture; ValueError where none was found yet."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a system did on one task and its mixtures.

    `weights` are means over examples and matrices by domain, empty without a pool; `chosen` is a label per example,
    empty where the system chooses none. The report of a two-pass system has the seconds of `fit`, `pass1` and `pass2`
    instead of `rollout`.
    """

    report: Report
    weights: Mapping[str, float] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()


def name_strategies(strategy: Strategy | None, others: Mapping[str, Strategy]) -> dict[str, Strategy]:
    """The strategies to measure by system name: one under its own name, others under those given.

    Raises:
        ValueError: two of one name, or a name that means something else.
    """
    named = dict(others)
    if strategy is not None:
        if strategy.name in named:
            raise ValueError(
                f"Two strategies are called {strategy.name!r}. Give one another name: +strategy@strategies.NAME=CHOICE."
            )
        named = {strategy.name: strategy, **named}
    for name, one in named.items():
        if name == EXPERT or name.startswith(f"{EXPERT}:") or (name == BASE and not isinstance(one, Base)):
            raise ValueError(f"No strategy may be called {name!r}: that system is scored anyway. Give it another name.")
    return named


def pool_systems(
    generator: AdaptableGenerator,
    pool: ExpertPool,
    strategies: Mapping[str, Strategy],
    *,
    singles: bool = True,
    uniform: bool = True,
    controls: Sequence[Control] = (),
    pass2: Pass2 = "auto",
    transfer: bool = False,
) -> dict[str, TwoPass]:
    """System name -> generator: single experts, their uniform mixture, then the strategies, which answer as `pass2`
    says.

    A strategy called `uniform` takes that system's place, and one called `base` adds none: base is scored anyway.

    Raises:
        ValueError: an expert does not fit the model, unless `transfer`.
    """
    fixed: dict[str, Strategy] = {}
    if singles:
        fixed |= {f"{EXPERT}:{domain}": Fixed(weights={domain: 1.0}) for domain in pool.domains}
    if uniform and UNIFORM not in strategies:
        fixed[UNIFORM] = Fixed(uniform=True)
    systems = {name: TwoPass(generator, pool, one, pass2="merged", transfer=transfer) for name, one in fixed.items()}
    for control in controls:
        for domain, expert in pool.experts.items():
            about, sizes = expert.metadata, {module: len(z) for module, z in expert.scales.items()}
            moved = transfer_expert(
                expert, sizes, base_model=about.base_model, fingerprint=about.fingerprint, control=control
            )
            other = pool.with_expert(domain, moved)
            systems[f"{control}:{domain}"] = TwoPass(
                generator, other, Fixed(weights={domain: 1.0}), pass2="merged", transfer=transfer
            )
    return systems | {
        name: TwoPass(generator, pool, one, pass2=pass2, transfer=transfer)
        for name, one in strategies.items()
        if name != BASE
    }


def is_scored(system: str, domain: str | None) -> bool:
    """Whether a system is scored on tasks of a domain: a control only where its expert is at home, all others always.

    `domain` is None where a task has none.
    """
    control, _, of = system.partition(":")
    return domain is None or control not in get_args(Control) or of == domain


def measure(
    generator: Generator,
    task: Task,
    examples: Sequence[Example],
    sampling: Sampling,
    *,
    system: str,
    support: Sequence[Example] = (),
    workers: int = 2,
) -> Outcome:
    """Let a system answer the examples; the strategy of a two-pass system is fitted to the support before.

    `workers` threads grade the answers.

    Raises:
        ValueError: there are no examples, or the strategy cannot use the support or the pool.
    """
    if not isinstance(generator, TwoPass):
        return Outcome(evaluate(generator, task, examples, sampling, system=system, workers=workers))
    start = time.perf_counter()
    generator.strategy.fit(PooledModel(generator.generator, generator.pool), task, support)
    seconds = {"fit": time.perf_counter() - start}
    before = dict(generator.phases.total_seconds)
    report = evaluate(generator, task, examples, sampling, system=system, workers=workers)
    after = generator.phases.total_seconds
    seconds |= {part: spent - before.get(part, 0.0) for part, spent in after.items()}
    seconds["score"] = report.seconds["score"]
    choices = generator.choices
    means = zip(*(choice.mixture.means for choice in choices), strict=True)
    labels = tuple(choice.label for choice in choices if choice.label is not None)
    return Outcome(
        report=replace(report, seconds=seconds),
        weights={domain: sum(of) / len(of) for domain, of in zip(generator.pool.domains, means, strict=True)},
        chosen=labels if len(labels) == len(choices) else (),
    )


def summarize_adaptation(
    outcomes: Sequence[Outcome], *, domains: Mapping[str, str], labels: Sequence[str]
) -> dict[str, Any]:
    """The `weights`, `pass_seconds` and `confusion` parts of `results.json`.

    Args:
        outcomes: of every system on every task.
        domains: task -> its true domain; tasks that have none are in no confusion matrix.
        labels: the pool's domains and `other`.
    """
    weights: dict[str, dict[str, Any]] = {}
    seconds: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        report = outcome.report
        if outcome.weights:
            weights.setdefault(report.task, {})[report.system] = dict(outcome.weights)
            seconds.setdefault(report.task, {})[report.system] = {part: report.seconds[part] for part in PASSES}
        if report.task in domains and outcome.chosen:
            pairs.setdefault(report.system, []).extend((domains[report.task], label) for label in outcome.chosen)
    confusion = {
        system: {
            "labels": list(labels),
            "counts": confusion_matrix([true for true, _ in of], [chosen for _, chosen in of], labels),
        }
        for system, of in pairs.items()
    }
    return {"weights": weights, "pass_seconds": seconds, "confusion": confusion}
