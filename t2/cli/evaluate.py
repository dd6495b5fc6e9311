"""Score systems on the same examples: python evaluate.py task=T [expert=RUN] [experts=POOL strategy=S], -m to sweep.

With a pool of experts these are the base, each single expert, their uniform mixture, and the strategies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from t2.adaptation.strategy import Strategy
from t2.adapters.base import adapter_name
from t2.adapters.svf import SVF
from t2.cli.early_checks import check_base_model
from t2.cli.evaluate_parts import Adapters, build_adapters, build_benchmark, build_systems, system_names
from t2.cli.main import run
from t2.evaluation.benchmark import Benchmark, labels_of
from t2.evaluation.contrasts import check_contrasts, summarize_controls
from t2.evaluation.figures import plot_confusion
from t2.evaluation.held_out import measure_held_out
from t2.evaluation.leaks import check_unseen
from t2.evaluation.report import (
    Outcome,
    Report,
    describe_data,
    summarize_choices,
    summarize_reports,
    summarize_tokens,
    write_samples,
)
from t2.evaluation.results import Results, Selection
from t2.evaluation.selection import derived, passed_over
from t2.evaluation.system_names import BASE, EXPERT, UNIFORM, joined_name
from t2.evaluation.systems import name_strategies
from t2.evaluation.tables import results_text
from t2.evaluation.wandb_results import log_evaluation, log_used_experts
from t2.models.precision import Precision
from t2.policy.answers import Answers
from t2.policy.generator import Generator
from t2.run.launch import quiet_libraries
from t2.run.phases import Phases
from t2.run.results import RESULTS_FILE, SAMPLES_FILE, own_commit
from t2.run.tracking import tracked, wandb_runs

log = logging.getLogger(__name__)


def evaluate_systems(cfg: DictConfig) -> Results:
    """Score every system on every task; returns what `results.json` holds."""
    start, phases = time.perf_counter(), Phases()
    quiet_libraries()
    # What the configuration alone can get wrong comes before the model is loaded.
    log.info("Precision: %s", Precision.of(cfg.base_model, cfg.generation))
    strategies = name_strategies(
        instantiate(cfg.get("strategy")), {k: instantiate(v) for k, v in cfg.strategies.items()}
    )
    wanted = any(strategy.wants_support for strategy in strategies.values())
    benchmark, texts = build_benchmark(cfg, shots=cfg.shots if wanted else 0), instantiate(cfg.get("held_out"))
    adapter = instantiate(cfg.adapter)
    adapters = build_adapters(cfg, strategies, benchmark, adapter)
    check_contrasts(cfg.contrasts, benchmark, system_names(cfg, adapters), adapters.domains)
    seen = adapters.seen(benchmark)
    check_unseen(seen, allow=cfg.allow_seen)
    check_base_model(cfg, adapters.expert, adapters.pool)
    lm = instantiate(cfg.base_model)
    benchmark.check_lengths(lm)
    if adapters.expert is None and adapters.pool is None:
        adapter = None
    else:
        with phases("svd" if isinstance(adapter, SVF) else "inject"):
            adapter.inject(lm.model, lm.source)
    answers = Answers() if cfg.keep_answers else None
    systems = build_systems(cfg, adapters, lm, adapter, answers)
    check_contrasts(cfg.contrasts, benchmark, list(systems), adapters.domains, systems[BASE])  # shots may not fit
    loggers = list(instantiate(cfg.get("logger") or {}).values())
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    about = {"git_commit": own_commit(), "data": describe_data(benchmark.tasks)}
    with tracked(loggers, {**configuration, **about}):
        held_out = measure_held_out(texts, systems, phases)  # first: what it refuses is refused before the rest
        outcomes, selection = score(benchmark, systems, adapters, phases)
        write_samples(Path(cfg.paths.run) / SAMPLES_FILE, [one.report for one in outcomes])  # before what may fail
        results = Results(
            command="evaluate",
            base_model=lm.source,
            adapter=adapter_name(adapter) if adapter is not None else None,
            split=cfg.split,
            seed=cfg.seed,
            seconds={**phases.total_seconds, **saved(answers), "total": time.perf_counter() - start},
            seen=seen or None,
            held_out=held_out,
            **describe(cfg, benchmark, adapters, outcomes),
            **summarize_controls(benchmark.tasks, [one.report for one in outcomes], selection, list(cfg.contrasts)),
        ).write(Path(cfg.paths.run))
        tell(results, outcomes, adapters, Path(cfg.paths.run), wandb_runs(loggers))
    return results


def score(
    benchmark: Benchmark, systems: Mapping[str, Generator], adapters: Adapters, phases: Phases
) -> tuple[list[Outcome], dict[str, Selection]]:
    """The outcomes of all systems, with those that are made of others, and what was chosen on validation by task."""
    with phases("select"):
        selection = benchmark.select(systems)
    only_best = benchmark.controls is not None and benchmark.controls.only_best
    left_out = {task: passed_over(chosen) for task, chosen in selection.items()} if only_best else None
    outcomes = benchmark.run(systems, domains=adapters.domains, left_out=left_out)
    for outcome in outcomes:
        phases.add(outcome.report.seconds)
    for chosen, task in zip(selection.values(), benchmark.tasks, strict=False):
        outcomes += derived([one for one in outcomes if one.report.task == task.name], chosen)
    return outcomes, selection


def tell(results: Results, outcomes: Sequence[Outcome], adapters: Adapters, run: Path, runs: Sequence[Any]) -> None:
    """Draw the confusion matrices, log all of it into W&B runs, and print the tables."""
    figures = {}
    for system, found in (results.confusion or {}).items():
        figures[f"confusion_{system}"] = run / f"confusion_{system}.png"
        plot_confusion(found.counts, found.labels, run / f"confusion_{system}.png", title=f"Chosen by {system}")
    log_used_experts(runs, adapters.experts)
    log_evaluation(runs, results, outcomes, figures)
    log.info("%s split:\n%s", results.split, results_text(results))
    log.info("Results: %s", run / RESULTS_FILE)


def saved(answers: Answers | None) -> dict[str, float]:
    """The seconds of answers that were there already, as `saved`; empty where none were, and the log says how many."""
    if answers is None or not answers.reused:
        return {}
    log.info("%d answers were taken from those that the same weights had given.", answers.reused)
    return {"saved": answers.saved_s}


def describe(cfg: DictConfig, benchmark: Benchmark, adapters: Adapters, outcomes: list[Outcome]) -> dict[str, Any]:
    """The parts of `results.json` that say what was compared, and how it did."""
    names, pool = list(benchmark.examples), adapters.pool
    fixed = BASE if adapters.expert is None and pool is None else "fixed"
    strategies = list(adapters.strategies) or [fixed]
    return {
        "task": names[0] if len(names) == 1 else names,
        "strategy": strategies[0] if len(strategies) == 1 else strategies,
        "expert": str(cfg.expert) if adapters.expert is not None else None,
        "expert_sha256": adapters.expert_sha256,
        "experts": list(pool.domains) if pool is not None else None,
        "shots": shots_used(list(adapters.strategies.values()), given=cfg.shots),
        "data": describe_data(benchmark.tasks),
        "trainable_parameters": sum(expert.parameter_count for expert in adapters.experts.values()),
        "headline": headline(adapters, [outcome.report for outcome in outcomes]),
        **summarize_reports([outcome.report for outcome in outcomes]),
        **summarize_tokens(outcomes),
        **(summarize_choices(outcomes, domains=adapters.domains, labels=labels_of(pool)) if pool is not None else {}),
    }


def shots_used(strategies: Sequence[Strategy], *, given: int) -> int | None:
    """How many solved examples the strategies had; the most where they had unequally many."""
    return max((getattr(one, "shots", given) for one in strategies if one.wants_support), default=None)


def headline(adapters: Adapters, reports: list[Report]) -> float:
    """The first strategy's mean over tasks; without one the expert's, the uniform mixture's or the base's."""
    wanted = [*adapters.strategies, EXPERT, UNIFORM, BASE]
    system = next(name for name in wanted if any(joined_name(report.system) == name for report in reports))
    means = [report.mean for report in reports if joined_name(report.system) == system]
    return sum(means) / len(means)


if __name__ == "__main__":  # how Lightning starts further processes of `t2 evaluate`
    run("evaluate")
