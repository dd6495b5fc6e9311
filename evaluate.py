"""Score systems on the same examples: python evaluate.py task=T [expert=RUN] [experts=POOL strategy=S], -m to sweep.

With a pool of experts these are the base, each single expert, their uniform mixture, and the strategies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.adaptation.strategy import Strategy
from t2.evaluation.benchmark import choose_support, labels_of, tasks_of, true_domains
from t2.evaluation.evaluate import describe_data
from t2.evaluation.figures import plot_confusion
from t2.evaluation.report import break_down, summarize, write_samples
from t2.evaluation.scoring import check_workers
from t2.evaluation.systems import (
    BASE,
    EXPERT,
    Outcome,
    is_scored,
    measure,
    name_strategies,
    pool_systems,
    summarize_adaptation,
)
from t2.evaluation.tables import results_text
from t2.experts.expert import Expert, apply_expert
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator
from t2.run.launch import launch, quiet_libraries
from t2.run.phases import Phases
from t2.run.results import SAMPLES_FILE, write_results
from t2.tasks.base import Task
from t2.types import Example

log = logging.getLogger(__name__)
CONF = Path(__file__).resolve().parent / "conf"


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a model is loaded."""

    tasks: Sequence[Task]
    examples: Mapping[str, Sequence[Example]]  # by task
    support: Mapping[str, Sequence[Example]]
    expert: Expert | None
    pool: ExpertPool | None
    strategies: Mapping[str, Strategy]  # by system name
    domains: Mapping[str, str]  # task -> its true domain, of those that have one


def evaluate_systems(cfg: DictConfig) -> dict[str, Any]:
    """Score every system on every task; returns what `results.json` holds."""
    start, phases = time.perf_counter(), Phases()
    quiet_libraries()
    plan = make_plan(cfg)
    lm = instantiate(cfg.base_model)
    adapter = instantiate(cfg.adapter) if plan.expert is not None or plan.pool is not None else None
    if adapter is not None:
        with phases("svd"):
            adapter.inject(lm.model, lm.source)
    generators = build_systems(cfg, plan, lm, adapter)
    outcomes = [outcome for task in plan.tasks for outcome in score(cfg, plan, task, generators)]
    for outcome in outcomes:
        phases.add(outcome.report.seconds)
    run = Path(cfg.paths.run)
    write_samples(run / SAMPLES_FILE, [outcome.report for outcome in outcomes])
    results = write_results(
        run,
        {
            "command": "evaluate",
            "base_model": lm.source,
            "adapter": type(adapter).__name__ if adapter is not None else None,
            **describe(cfg, plan),
            **summarize_outcomes(plan, outcomes),
            "seconds": {**phases.total_seconds, "total": time.perf_counter() - start},
            "seed": cfg.seed,
        },
    )
    for system, confusion in results.get("confusion", {}).items():
        plot_confusion(confusion["counts"], confusion["labels"], run / f"confusion_{system}.png")
    log.info("%s split:\n%s", cfg.split, results_text(results))
    log.info("Results: %s", run / "results.json")
    return results


def make_plan(cfg: DictConfig) -> Plan:
    """What the configuration alone can get wrong comes before the model is loaded."""
    check_workers(cfg.score_workers)
    benchmarks = instantiate(cfg.get("benchmarks"))  # absent where no set is named
    tasks = tasks_of(benchmarks) if benchmarks else [instantiate(cfg.task)]
    examples = {task.name: task.split(cfg.split)[: cfg.limit] for task in tasks}
    pool = instantiate(cfg.get("experts"))
    strategies = name_strategies(
        instantiate(cfg.get("strategy")), {name: instantiate(part) for name, part in cfg.strategies.items()}
    )
    if strategies and pool is None:
        raise ValueError(f"{', '.join(strategies)} would choose among the experts of a pool: give experts=POOL, too.")
    domains = {}
    if pool is not None:
        domains = true_domains([task.name for task in tasks], cfg.benchmark_domains, labels_of(pool))
        if left := [task.name for task in tasks if task.name not in domains]:
            log.info("No domain, so not in a confusion matrix: %s (see benchmark_domains).", ", ".join(left))
    shots = cfg.shots if strategies else 0
    return Plan(
        tasks=tasks,
        examples=examples,
        support={
            task.name: choose_support(
                task, shots=shots, split=cfg.support_split, seed=cfg.seed, scored=examples[task.name]
            )
            for task in tasks
        },
        expert=Expert.load(Expert.find(cfg.expert)) if cfg.expert else None,
        pool=pool,
        strategies=strategies,
        domains=domains,
    )


def build_systems(cfg: DictConfig, plan: Plan, lm: LanguageModel, adapter: Any) -> dict[str, Generator]:
    """System name -> who answers."""
    generators: dict[str, Generator] = {BASE: instantiate(cfg.generation)(lm=lm, adapter=adapter, weights="base")}
    if adapter is None:
        return generators
    adapted = instantiate(cfg.generation)(lm=lm, adapter=adapter)
    if plan.expert is not None:
        apply_expert(adapter, plan.expert, source=lm.source, transfer=cfg.transfer)
        generators[EXPERT] = adapted
    if plan.pool is not None:
        generators |= pool_systems(
            adapted, plan.pool, plan.strategies,
            singles=cfg.singles, uniform=cfg.uniform, controls=cfg.transfer_controls, pass2=cfg.pass2,
            transfer=cfg.transfer,
        )  # fmt: skip
    return generators


def score(cfg: DictConfig, plan: Plan, task: Task, generators: Mapping[str, Generator]) -> list[Outcome]:
    """Let every system answer one task."""
    sampling = instantiate(
        cfg.sampling, max_new_tokens=cfg.sampling.max_new_tokens or task.max_new_tokens, seed=cfg.seed
    )
    outcomes = []
    for system, generator in generators.items():
        if not is_scored(system, plan.domains.get(task.name)):
            continue
        outcome = measure(
            generator, task, plan.examples[task.name], sampling,
            system=system, support=plan.support[task.name], workers=cfg.score_workers,
        )  # fmt: skip
        log.info("%s, %s: %.1f %%", task.name, system, 100 * outcome.report.mean)
        outcomes.append(outcome)
    return outcomes


def describe(cfg: DictConfig, plan: Plan) -> dict[str, Any]:
    """What was measured, for `results.json`."""
    names = [task.name for task in plan.tasks]
    fixed = BASE if plan.expert is None and plan.pool is None else "fixed"
    strategies = list(plan.strategies) or [fixed]
    experts = [*([plan.expert] if plan.expert else []), *(plan.pool.experts.values() if plan.pool else [])]
    return {
        "task": names[0] if len(names) == 1 else names,
        "strategy": strategies[0] if len(strategies) == 1 else strategies,
        "split": cfg.split,
        "expert": str(cfg.expert) if plan.expert is not None else None,
        "experts": list(plan.pool.domains) if plan.pool is not None else None,
        "shots": cfg.shots if plan.strategies else None,
        "data": describe_data(plan.tasks),
        "trainable_parameters": sum(expert.parameter_count for expert in experts),
    }


def summarize_outcomes(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Scores, paired differences, reasons and groups by task, and what the systems of a pool wore."""
    parts: dict[str, Any] = {}
    for task in plan.tasks:
        reports = {o.report.system: o.report for o in outcomes if o.report.task == task.name}
        summary = summarize(
            task.name, {name: report.scores for name, report in reports.items()}, majority=reports[BASE].majority
        )
        for part, found in {**summary, **break_down(list(reports.values()))}.items():
            parts.setdefault(part, {}).update(found)
    if plan.pool is not None:
        parts |= summarize_adaptation(outcomes, domains=plan.domains, labels=labels_of(plan.pool))
    return parts


if __name__ == "__main__":
    launch(evaluate_systems, conf=CONF, name="evaluate")
