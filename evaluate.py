"""Score the base model and an expert on the same examples: python evaluate.py task=T [expert=RUN], -m to sweep."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.analysis import results_table, seconds_table
from t2.callbacks import SAMPLES_FILE
from t2.evaluation import evaluate, summarize, write_samples
from t2.experts import Expert, wear
from t2.runtime import Phases, quiet_libraries, write_results
from t2.scripts import launch
from t2.tasks.base import Task
from t2.types import Report

log = logging.getLogger(__name__)
CONF = Path(__file__).resolve().parent / "conf"


def evaluate_systems(cfg: DictConfig) -> dict[str, Any]:
    """Score every system on every task; returns what `results.json` holds."""
    start, phases = time.perf_counter(), Phases()
    quiet_libraries()
    # What the configuration alone can get wrong comes before the model is loaded.
    benchmarks = instantiate(cfg.get("benchmarks"))  # absent where no set is named
    tasks: list[Task] = list(benchmarks.values()) if benchmarks else [instantiate(cfg.task)]
    examples = {task.name: task.split(cfg.split)[: cfg.limit] for task in tasks}
    expert = Expert.load(Expert.find(cfg.expert)) if cfg.expert else None
    lm = instantiate(cfg.base_model)
    adapter = instantiate(cfg.adapter) if expert is not None else None
    generators = {"base": instantiate(cfg.generation)(lm=lm, adapter=adapter, worn="base")}
    if adapter is not None and expert is not None:
        with phases("svd"):
            adapter.inject(lm.model, lm.source)
        wear(adapter, expert, source=lm.source, transfer=cfg.transfer)
        generators["expert"] = instantiate(cfg.generation)(lm=lm, adapter=adapter)
    scores: dict[str, Any] = {"scores": {}, "paired": {}}
    reports: list[Report] = []
    for task in tasks:
        sampling = instantiate(
            cfg.sampling, max_new_tokens=cfg.sampling.max_new_tokens or task.max_new_tokens, seed=cfg.seed
        )
        mine = {
            system: evaluate(generator, task, examples[task.name], sampling, system=system)
            for system, generator in generators.items()
        }
        summary = summarize(
            task.name, {name: report.scores for name, report in mine.items()}, majority=mine["base"].majority
        )
        for part in scores:
            scores[part] |= summary[part]
        reports += mine.values()
    for report in reports:
        phases.add(report.seconds)
    run = Path(cfg.paths.run)
    write_samples(run / SAMPLES_FILE, reports)
    results = {
        "command": "evaluate",
        "base_model": lm.source,
        "adapter": type(adapter).__name__ if adapter is not None else None,
        "task": tasks[0].name if len(tasks) == 1 else [task.name for task in tasks],
        "strategy": "fixed" if expert is not None else "base",
        "split": cfg.split,
        "expert": str(cfg.expert) if expert is not None else None,
        "trainable_parameters": expert.parameter_count if expert is not None else 0,
        **scores,
        "seconds": {**phases.total_seconds, "total": time.perf_counter() - start},
        "seed": cfg.seed,
    }
    results = write_results(run, results)
    log.info("%s split:\n%s", cfg.split, results_table(results))
    log.info("Seconds: %s", seconds_table(results["seconds"]))
    log.info("Results: %s", run / "results.json")
    return results


if __name__ == "__main__":
    launch(evaluate_systems, conf=CONF, name="evaluate")
