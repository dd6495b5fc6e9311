"""The parts of a training run, built from a configuration; what that alone can get wrong comes before the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

import t2
from t2.adapters.base import Adapter
from t2.adapters.svf import SVF
from t2.cli.early_checks import check_base_model, check_fixed
from t2.cli.task_sampling import task_sampling
from t2.experts.compatibility import DISPATCH, check_domain
from t2.experts.expert import ExpertMetadata
from t2.experts.trained import (
    UNKNOWN_ORIGIN,
    Trained,
    apply_trained,
    check_mixable,
    find_trained,
    load_trained,
    origin,
)
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.precision import Precision
from t2.run.configuration.trainer import DIVIDED, FSDP
from t2.run.fetch import file_sha256
from t2.run.results import own_commit
from t2.tasks.base import Task
from t2.tasks.prompt_hash import prompt_hashes
from t2.training.activation_checkpointing import recompute_blocks
from t2.training.callbacks import Validation
from t2.training.data import PromptData
from t2.training.device import check_accelerator, device_of_rank
from t2.training.lightning_callbacks import serve_lightning
from t2.training.module import ExpertTraining
from t2.training.ranks import Ranks
from t2.training.sharded import check_adapter
from t2.training.trained_pool import AfterTraining

log = logging.getLogger(__name__)


def is_divided(cfg: DictConfig) -> bool:
    """Whether several processes train, each with a part of every step's prompts."""
    return cfg.trainer.get("strategy") in DIVIDED


def check_parts(cfg: DictConfig) -> None:
    """Log the precision policy; ValueError where device, precision or domain cannot be."""
    log.info("Precision: %s", Precision.of(cfg.base_model, cfg.generation, cfg.trainer))
    check_accelerator(cfg.trainer.get("accelerator", "auto"), str(cfg.base_model.get("device", "cpu")))
    if cfg.domain != DISPATCH:  # the one reserved name that an expert may be trained for
        check_domain(cfg.domain)


def divide(cfg: DictConfig) -> None:
    """Log how many prompts of a step each of several processes has, and give this one its device.

    Raises:
        ValueError: what `device_of_rank` refuses.
    """
    size = cfg.trainer.devices * cfg.trainer.get("num_nodes", 1)
    parts = [len(Ranks(rank, size).part(cfg.prompts_per_step)) for rank in range(size)]
    log.info("Each step's prompts are divided among processes: %s.", " + ".join(map(str, parts)))
    if "device" in cfg.base_model:
        cfg.base_model.device = device_of_rank(cfg.base_model.device, cfg.trainer.devices)
    if cfg.trainer.strategy == FSDP:
        if "batch_rows" in cfg.generation:
            cfg.generation.mode = "factored"
        if get_method(cfg.base_model._target_) is load_model:
            OmegaConf.update(cfg, "base_model.by_block", True, force_add=True)
        log.info("The model is sharded among the processes of each machine; rollouts are factored, nothing is merged.")


def validation_of(callbacks: Sequence[L.Callback]) -> Validation:
    """The one callback that validates; ValueError where there is none or more."""
    found = [callback for callback in callbacks if isinstance(callback, Validation)]
    if len(found) != 1:
        raise ValueError("callbacks has no or several t2.training.callbacks.Validation; allowed: one, which reports.")
    return found[0]


def build(cfg: DictConfig) -> tuple[ExpertTraining, PromptData, list[L.Callback], AfterTraining | None]:
    """The parts of a training run. What the configuration alone can get wrong comes before the model is loaded."""
    task, objective, optimizer = (instantiate(cfg[part]) for part in ("task", "objective", "optimizer"))
    sampling = task_sampling(cfg.sampling, task)
    objective.check_sampling(sampling)
    check_parts(cfg)
    data = PromptData(task, prompts_per_step=cfg.prompts_per_step, steps=cfg.steps, seed=cfg.seed)
    callbacks, validation = build_callbacks(cfg)
    adapter = instantiate(cfg.adapter)
    start = build_start(cfg, adapter)
    check_mixable(adapter, [f"{key}=" for key in ("experts", "strategy") if cfg.get(key)])
    check_base_model(cfg, None if start is None else start.trained)
    after = build_after(cfg, task, limit=validation.limit)
    if shards := cfg.trainer.get("strategy") == FSDP:
        check_adapter(adapter)
    lm = instantiate(cfg.base_model)
    data.check_lengths(lm, task, sampling, validated=validation.limit, answers=not objective.on_policy)
    inject_seconds = 0.0 if shards else inject(adapter, lm)  # with shards, when the processes are connected
    if start is not None:
        apply_trained(adapter, start.trained, source=lm.source)
    if cfg.recompute_activations:
        recompute_blocks(lm.model)
    metadata = ExpertMetadata(
        base_model=lm.source,
        task=task.name,
        domain=cfg.domain,
        description=cfg.description,
        objective=type(objective).__name__,
        step=0,
        t2_version=t2.__version__,
        git_commit=own_commit(),
        **provenance(start, prompt_hashes([*data.schedule.used(cfg.steps).values(), *task.split("val")])),
        **(UNKNOWN_ORIGIN if shards else origin(adapter)),
    )
    own = ("micro_batch_tokens", "share_prompts", "kl_every", "score_workers", "seed")
    module = ExpertTraining(
        lm=lm,
        adapter=adapter,
        task=task,
        objective=objective,
        generator=instantiate(cfg.generation)(lm=lm, adapter=adapter),
        metadata=metadata,
        sampling=sampling,
        optimizer=optimizer,
        total_steps=cfg.steps,
        shards=shards,
        **{key: cfg[key] for key in own},
    )
    module.phases.total_seconds["svd" if isinstance(adapter, SVF) else "inject"] = inject_seconds
    return module, data, callbacks, after


@dataclass(frozen=True)
class Start:
    """What training begins with instead of the base: an expert, or the weights of another adapter, and its file."""

    trained: Trained
    sha256: str


def provenance(start: Start | None, prompts: Iterable[str]) -> dict[str, Any]:
    """The fields of `ExpertMetadata` that say what training began with, and which questions were learned from.

    Those that the start was trained on are among them; where these are unknown, so are all.
    """
    if start is None:
        return {"prompts": frozenset(prompts)}
    before = start.trained.metadata.prompts
    return {"prompts": None if before is None else before | set(prompts), "start": start.sha256}


def build_start(cfg: DictConfig, adapter: Adapter) -> Start | None:
    """What `start_from` names; ValueError or FileNotFoundError where training cannot begin with it."""
    if not cfg.start_from:
        return None
    if cfg.trainer.get("strategy") == FSDP:
        raise ValueError(
            "start_from= is not for trainer=fsdp, which has the adapter later; allowed: one device, or ddp."
        )
    path = find_trained(cfg.start_from, adapter)
    return Start(load_trained(path, adapter), file_sha256(path))


def inject(adapter: Adapter, lm: LanguageModel) -> float:
    """Put an adapter into a model; returns the seconds."""
    start = time.perf_counter()
    adapter.inject(lm.model, lm.source)
    return time.perf_counter() - start


def build_callbacks(cfg: DictConfig) -> tuple[list[L.Callback], Validation]:
    """The callbacks in their order, and the one among them that validates."""
    short = cfg.trainer.get("fast_dev_run")
    for node in cfg.callbacks.values() if short else ():
        if str(node.get("_target_")).endswith(".Adaptation"):
            node.limit = min(node.get("limit") or cfg.prompts_per_step, cfg.prompts_per_step)
    callbacks = list(instantiate(cfg.callbacks).values())
    validation = validation_of(callbacks)
    if short:
        validation.limit = min(validation.limit or cfg.prompts_per_step, cfg.prompts_per_step)
    return serve_lightning(callbacks, validation, run=Path(cfg.paths.run)), validation


def build_after(cfg: DictConfig, task: Task, *, limit: int | None) -> AfterTraining | None:
    """What is scored after training; None without a strategy. ValueError where there is a pool, and no strategy."""
    strategy, pool = instantiate(cfg.get("strategy")), instantiate(cfg.get("experts"))
    if strategy is None:
        if pool is not None:
            raise ValueError("experts= is a pool that a strategy chooses from after training: give strategy=, too.")
        return None
    check_fixed([strategy], pool, more=[cfg.domain])
    check_base_model(cfg, pool=pool)
    return AfterTraining.of(
        strategy, task, pool=pool, limit=limit, shots=cfg.shots, support_split=cfg.support_split, pass2=cfg.pass2,
        seed=cfg.seed, workers=cfg.score_workers,
    )  # fmt: skip
