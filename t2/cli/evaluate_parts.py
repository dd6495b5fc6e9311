"""Parts of an evaluation, made of its configuration: the questions, the experts and strategies, the systems.

Nothing here generates or scores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.adaptation.strategy import Strategy
from t2.adapters.base import Adapter
from t2.cli.early_checks import check_fixed, check_samples
from t2.cli.task_sampling import task_sampling
from t2.evaluation.benchmark import Benchmark, labels_of, tasks_of
from t2.evaluation.leaks import count_seen
from t2.evaluation.results import Seen
from t2.evaluation.system_names import BASE, EXPERT
from t2.evaluation.systems import pool_system_names, pool_systems
from t2.experts.lora_expert import LoraExpert
from t2.experts.pool import ExpertPool
from t2.experts.trained import Trained, apply_trained, check_mixable, find_trained, load_trained
from t2.models.language_model import LanguageModel
from t2.policy.answers import Answers
from t2.policy.generator import AdaptableGenerator, Generator, Weights
from t2.policy.hf import HFGenerator
from t2.run.fetch import file_sha256
from t2.run.launch_overrides import given_overrides
from t2.run.words import key_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapters:
    """What is scored beside the base: an expert, and a pool of experts with strategies by system name."""

    expert: Trained | None
    pool: ExpertPool | None
    strategies: Mapping[str, Strategy]
    domains: Mapping[str, str]  # task -> its true domain in the pool, of those that have one
    expert_sha256: str | None = None  # of the expert's file

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


def build_benchmark(cfg: DictConfig, *, shots: int) -> Benchmark:
    """The tasks of the configuration with their examples and sampling.

    Raises:
        ValueError: a key that would be ignored, or what `Benchmark` refuses.
    """
    check_samples(cfg.sampling)
    check_tasks(cfg, given_overrides())
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
        sampling={task.name: task_sampling(cfg.sampling, task, seed=cfg.seed) for task in tasks},
        workers=cfg.score_workers,
    )


def check_tasks(cfg: DictConfig, words: Sequence[str]) -> None:
    """Raise ValueError where the words of the command line name a task, or one of a set, that would be ignored."""
    has_set = bool(cfg.get("benchmarks"))
    if cfg.only is not None and not has_set:
        raise ValueError(
            f"only={cfg.only} is one task of a named set, and none is named: give benchmarks=SET, or task={cfg.only} "
            "in place of only."
        )
    ignored = [word for word in words if key_of(word).partition(".")[0] == "task"]
    if ignored and has_set:
        raise ValueError(
            f"{ignored[0]} is given beside a set of benchmarks, whose tasks are scored in its place: leave it out, "
            "choose one of the set by only=NAME, or set benchmarks=null. The keys of a task of the set are "
            "benchmarks.NAME.KEY."
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
    check_fixed(strategies.values(), pool)
    domains = benchmark.true_domains(labels_of(pool)) if pool is not None else {}
    if pool is not None and (left := [name for name in benchmark.examples if name not in domains]):
        log.info("No domain, so not in a confusion matrix: %s (see benchmark_domains).", ", ".join(left))
    if not cfg.expert:
        return Adapters(None, pool, strategies, domains)
    path = find_trained(cfg.expert, adapter)
    return Adapters(load_trained(path, adapter), pool, strategies, domains, file_sha256(path))


def build_systems(
    cfg: DictConfig, adapters: Adapters, lm: LanguageModel, adapter: Any, answers: Answers | None
) -> dict[str, Generator]:
    """Generators by system name."""

    def generator(weights: Weights) -> AdaptableGenerator:
        made: AdaptableGenerator = instantiate(cfg.generation)(lm=lm, adapter=adapter, weights=weights)
        if isinstance(made, HFGenerator):
            made.answers = answers
        return made

    systems: dict[str, Generator] = {BASE: generator("base")}
    if adapter is None:
        return systems
    adapted = generator("adapted")
    if adapters.expert is not None:
        apply_trained(adapter, adapters.expert, source=lm.source, transfer=cfg.transfer)
        systems[EXPERT] = adapted
    if adapters.pool is not None:
        systems |= pool_systems(
            adapted, adapters.pool, adapters.strategies, seed=cfg.seed, pass2=cfg.pass2, transfer=cfg.transfer,
            **_which(cfg),
        )  # fmt: skip
    return systems


def system_names(cfg: DictConfig, adapters: Adapters) -> list[str]:
    """The names of the systems, before there is a model."""
    single = [BASE] if adapters.expert is None else [BASE, EXPERT]
    pool = adapters.pool
    return single if pool is None else [*single, *pool_system_names(pool, adapters.strategies, **_which(cfg))]


def _which(cfg: DictConfig) -> dict[str, Any]:
    """Which systems of a pool are scored."""
    keys = ("singles", "uniform", "all_at_1", "support_sets")
    renamed = {"controls": cfg.transfer_controls, "control_draws": cfg.transfer_control_draws}
    return {key: cfg[key] for key in keys} | renamed
