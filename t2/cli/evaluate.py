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
from omegaconf import DictConfig, OmegaConf

from t2.adaptation.strategy import Strategy
from t2.adapters.base import Adapter, adapter_name
from t2.adapters.svf import SVF
from t2.cli.main import run
from t2.evaluation.benchmark import Benchmark, labels_of, tasks_of
from t2.evaluation.contrasts import parse_contrast, summarize_controls
from t2.evaluation.figures import plot_confusion
from t2.evaluation.held_out import measure_held_out
from t2.evaluation.leaks import Seen, check_unseen, count_seen
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
from t2.evaluation.selection import derived
from t2.evaluation.systems import BASE, EXPERT, UNIFORM, joined_name, name_strategies, pool_systems
from t2.evaluation.tables import results_text
from t2.evaluation.wandb_results import log_evaluation, log_used_experts
from t2.experts.lora_expert import LoraExpert
from t2.experts.pool import ExpertPool
from t2.experts.trained import Trained, apply_trained, check_mixable, load_trained
from t2.models.language_model import LanguageModel
from t2.models.precision import Precision
from t2.policy.generator import Generator
from t2.run.launch import quiet_libraries
from t2.run.phases import Phases
from t2.run.results import RESULTS_FILE, SAMPLES_FILE, own_commit
from t2.run.tracking import tracked, wandb_runs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapters:
    """What is scored beside the base: an expert, and a pool of experts with strategies by system name."""

    expert: Trained | None
    pool: ExpertPool | None
    strategies: Mapping[str, Strategy]
    domains: Mapping[str, str]  # task -> its true domain in the pool, of those that have one

    @property
    def experts(self) -> dict[str, Trained | LoraExpert]:
        """All of them by system name."""
        single: dict[str, Trained | LoraExpert] = {EXPERT: self.expert} if self.expert is not None else {}
        pooled = {} if self.pool is None else self.pool.experts
        return single | {f"{EXPERT}:{domain}": expert for domain, expert in pooled.items()}

    def seen(self, benchmark: Benchmark) -> Seen:
        """Which scored questions were seen before, and by what."""
        return count_seen(
            benchmark.examples, experts=self.experts, tasks=benchmark.tasks, strategies=self.strategies.values(),
            pool=self.pool, support=benchmark.solved, shown=benchmark.shown,
        )  # fmt: skip


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
    for contrast in cfg.contrasts:
        parse_contrast(contrast)
    adapter = instantiate(cfg.adapter)
    adapters = build_adapters(cfg, strategies, benchmark, adapter)
    seen = adapters.seen(benchmark)
    check_unseen(seen, allow=cfg.allow_seen)
    lm = instantiate(cfg.base_model)
    benchmark.check_lengths(lm)
    if adapters.expert is None and adapters.pool is None:
        adapter = None
    else:
        with phases("svd" if isinstance(adapter, SVF) else "inject"):
            adapter.inject(lm.model, lm.source)
    systems = build_systems(cfg, adapters, lm, adapter)
    loggers = list(instantiate(cfg.get("logger") or {}).values())
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    about = {"git_commit": own_commit(), "data": describe_data(benchmark.tasks)}
    with tracked(loggers, {**configuration, **about}):
        held_out = measure_held_out(texts, systems, phases)  # first: what it refuses is refused before the rest
        outcomes, selection = score(benchmark, systems, adapters, phases)
        results = Results(
            command="evaluate",
            base_model=lm.source,
            adapter=adapter_name(adapter) if adapter is not None else None,
            split=cfg.split,
            seed=cfg.seed,
            seconds={**phases.total_seconds, "total": time.perf_counter() - start},
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
    outcomes = benchmark.run(systems, domains=adapters.domains)
    for outcome in outcomes:
        phases.add(outcome.report.seconds)
    for chosen, task in zip(selection.values(), benchmark.tasks, strict=False):
        outcomes += derived([one for one in outcomes if one.report.task == task.name], chosen)
    return outcomes, selection


def tell(results: Results, outcomes: Sequence[Outcome], adapters: Adapters, run: Path, runs: Sequence[Any]) -> None:
    """Write the completions and draw the confusion matrices, log all of it into W&B runs, and print the tables."""
    write_samples(run / SAMPLES_FILE, [outcome.report for outcome in outcomes])
    figures = {}
    for system, found in (results.confusion or {}).items():
        figures[f"confusion_{system}"] = run / f"confusion_{system}.png"
        plot_confusion(found.counts, found.labels, run / f"confusion_{system}.png", title=f"Chosen by {system}")
    log_used_experts(runs, adapters.experts)
    log_evaluation(runs, results, outcomes, figures)
    log.info("%s split:\n%s", results.split, results_text(results))
    log.info("Results: %s", run / RESULTS_FILE)


def build_benchmark(cfg: DictConfig, *, shots: int) -> Benchmark:
    """The tasks of the configuration with their examples and sampling."""
    benchmarks = instantiate(cfg.get("benchmarks"))  # absent where no set is named
    tasks = tasks_of(benchmarks, cfg.only) if benchmarks else [instantiate(cfg.task)]
    return Benchmark(
        tasks,
        split=cfg.split,
        limit=cfg.limit,
        shots=shots,
        support_split=cfg.support_split,
        support_sets=cfg.support_sets,
        seed=cfg.seed,
        domains=cfg.benchmark_domains,
        controls=instantiate(cfg.controls),
        sampling={
            task.name: instantiate(
                cfg.sampling,
                max_new_tokens=cfg.sampling.max_new_tokens or task.max_new_tokens,
                stop=task.form.stop if cfg.sampling.stop is None else cfg.sampling.stop,
                seed=cfg.seed,
            )
            for task in tasks
        },
        workers=cfg.score_workers,
    )


def build_adapters(
    cfg: DictConfig, strategies: Mapping[str, Strategy], benchmark: Benchmark, adapter: Adapter
) -> Adapters:
    """The experts of the configuration; ValueError where they do not go with the adapter, strategies or benchmark."""
    check_mixable(
        adapter, [key for key, given in (("experts=", cfg.get("experts")), ("strategy=", strategies)) if given]
    )
    pool = instantiate(cfg.get("experts"))
    if strategies and pool is None:
        raise ValueError(f"{', '.join(strategies)} would choose among the experts of a pool: give experts=POOL, too.")
    domains = benchmark.true_domains(labels_of(pool)) if pool is not None else {}
    if pool is not None and (left := [name for name in benchmark.examples if name not in domains]):
        log.info("No domain, so not in a confusion matrix: %s (see benchmark_domains).", ", ".join(left))
    expert = load_trained(cfg.expert, adapter) if cfg.expert else None
    return Adapters(expert, pool, strategies, domains)


def build_systems(cfg: DictConfig, adapters: Adapters, lm: LanguageModel, adapter: Any) -> dict[str, Generator]:
    """Generators by system name."""
    systems: dict[str, Generator] = {BASE: instantiate(cfg.generation)(lm=lm, adapter=adapter, weights="base")}
    if adapter is None:
        return systems
    adapted = instantiate(cfg.generation)(lm=lm, adapter=adapter)
    if adapters.expert is not None:
        apply_trained(adapter, adapters.expert, source=lm.source, transfer=cfg.transfer)
        systems[EXPERT] = adapted
    if adapters.pool is not None:
        systems |= pool_systems(
            adapted, adapters.pool, adapters.strategies, singles=cfg.singles, uniform=cfg.uniform,
            all_at_1=cfg.all_at_1, controls=cfg.transfer_controls, control_draws=cfg.transfer_control_draws,
            support_sets=cfg.support_sets, seed=cfg.seed, pass2=cfg.pass2, transfer=cfg.transfer,
        )  # fmt: skip
    return systems


def describe(cfg: DictConfig, benchmark: Benchmark, adapters: Adapters, outcomes: list[Outcome]) -> dict[str, Any]:
    """The parts of `results.json` that say what was compared, and how it did."""
    names, pool = list(benchmark.examples), adapters.pool
    fixed = BASE if adapters.expert is None and pool is None else "fixed"
    strategies = list(adapters.strategies) or [fixed]
    return {
        "task": names[0] if len(names) == 1 else names,
        "strategy": strategies[0] if len(strategies) == 1 else strategies,
        "expert": str(cfg.expert) if adapters.expert is not None else None,
        "experts": list(pool.domains) if pool is not None else None,
        "shots": cfg.shots if any(one.wants_support for one in adapters.strategies.values()) else None,
        "data": describe_data(benchmark.tasks),
        "trainable_parameters": sum(expert.parameter_count for expert in adapters.experts.values()),
        "headline": headline(adapters, [outcome.report for outcome in outcomes]),
        **summarize_reports([outcome.report for outcome in outcomes]),
        **summarize_tokens(outcomes),
        **(summarize_choices(outcomes, domains=adapters.domains, labels=labels_of(pool)) if pool is not None else {}),
    }


def headline(adapters: Adapters, reports: list[Report]) -> float:
    """The first strategy's mean over tasks; without one the expert's, the uniform mixture's or the base's."""
    wanted = [*adapters.strategies, EXPERT, UNIFORM, BASE]
    system = next(name for name in wanted if any(joined_name(report.system) == name for report in reports))
    means = [report.mean for report in reports if joined_name(report.system) == system]
    return sum(means) / len(means)


if __name__ == "__main__":  # how Lightning starts further processes of `t2 evaluate`
    run("evaluate")
