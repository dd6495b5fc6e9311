"""Train an expert by policy gradient: python train.py [group=choice] [key=value], -m to sweep, resume=RUN to go on.

Composes the configuration, builds the parts and runs them; everything else is in `t2`. The run folder is printed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import t2
from t2.adapters.base import Adapter, NamedAdapter, adapter_name
from t2.adapters.svf import SVF
from t2.cli.main import run
from t2.evaluation.figures import plot_learning_curve
from t2.evaluation.report import describe_data, summarize
from t2.evaluation.results import Results
from t2.evaluation.systems import BASE, EXPERT
from t2.evaluation.tables import results_table, seconds_text
from t2.experts.compatibility import DISPATCH, check_domain
from t2.experts.content import ADAPTER_FILE
from t2.experts.expert import EXPERT_FILE, ExpertMetadata
from t2.experts.trained import check_mixable, origin
from t2.models.precision import Precision
from t2.run.configuration.trainer import DDP
from t2.run.launch import quiet_libraries
from t2.run.launch_folder import overrides_of
from t2.run.places import typed
from t2.run.results import CURVE_FILE, METRICS_FILE, own_commit
from t2.run.tracking import tracked, wandb_runs
from t2.tasks.base import Task
from t2.tasks.prompt_hash import prompt_hashes
from t2.training.activation_checkpointing import recompute_blocks
from t2.training.callbacks import Validation, finish
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.dashboard import log_training
from t2.training.data import PromptData
from t2.training.device import check_accelerator, ddp_placement, device_of_rank, trainer_placement
from t2.training.lightning_callbacks import has_checkpoint, serve_lightning
from t2.training.module import ExpertTraining
from t2.training.ranks import Ranks
from t2.training.trained_pool import AfterTraining
from t2.types import Sampling

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> Results | None:
    """Train as configured, or go on with an interrupted run; returns what `results.json` holds.

    None where this is one of several processes, and not the first.
    """
    start = time.perf_counter()
    quiet_libraries()
    L.seed_everything(cfg.seed, verbose=False)
    run = Path(cfg.paths.run)
    several = cfg.trainer.get("strategy") == DDP
    if several:
        divide(cfg)
    module, data, callbacks, after = build(cfg)
    if after is not None:
        after.check(module)
    loggers = [] if cfg.trainer.get("fast_dev_run") else list(instantiate(cfg.get("logger") or {}).values())
    with tracked(loggers, about(cfg, module)):
        placement = ddp_placement(module.lm.device) if several else trainer_placement(module.lm.device)
        trainer = instantiate(cfg.trainer)(
            logger=loggers, callbacks=callbacks, enable_checkpointing=has_checkpoint(callbacks), **placement
        )
        checkpoint = run / LAST_CHECKPOINT if cfg.resume else None
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        finally:
            module.on_train_end()  # after an error, too: a thread may sample ahead
        finish(trainer, module)
        if not trainer.is_global_zero:
            return None
        results = report(cfg, module, callbacks, after, start=start)
        curve = run / CURVE_FILE if (run / METRICS_FILE).is_file() else None  # without the logger csv there are none
        if curve is not None:
            plot_learning_curve([run], curve)  # after the results: no figure is worth a run
        log_training(
            wandb_runs(loggers), results, best_step=validation_of(callbacks).best_step,
            expert=saved_file(run, module.adapter), metadata=module.metadata, figure=curve,
        )  # fmt: skip
    return results


def about(cfg: DictConfig, module: ExpertTraining) -> dict[str, Any]:
    """What loggers get as hyperparameters: the resolved configuration, the commit, and which data the task has read."""
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**configuration, "git_commit": module.metadata.git_commit, "data": describe_data([module.task])}


def saved_file(run: Path, adapter: Adapter) -> Path:
    """The file of what a run has learned."""
    return run / (EXPERT_FILE if isinstance(adapter, SVF) else ADAPTER_FILE)


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


def validation_of(callbacks: Sequence[L.Callback]) -> Validation:
    """The one callback that validates; ValueError where there is none or more."""
    found = [callback for callback in callbacks if isinstance(callback, Validation)]
    if len(found) != 1:
        raise ValueError("callbacks has no or several t2.training.callbacks.Validation; allowed: one, which reports.")
    return found[0]


def build(cfg: DictConfig) -> tuple[ExpertTraining, PromptData, list[L.Callback], AfterTraining | None]:
    """The parts of a training run. What the configuration alone can get wrong comes before the model is loaded."""
    task, objective, sampling, optimizer = (
        instantiate(cfg[part]) for part in ("task", "objective", "sampling", "optimizer")
    )
    objective.check_sampling(sampling)
    check_parts(cfg)
    data = PromptData(task, prompts_per_step=cfg.prompts_per_step, steps=cfg.steps, seed=cfg.seed)
    callbacks, validation = build_callbacks(cfg)
    adapter = instantiate(cfg.adapter)
    check_mixable(adapter, [f"{key}=" for key in ("experts", "strategy") if cfg.get(key)])
    after = build_after(cfg, task, sampling, limit=validation.limit)
    lm = instantiate(cfg.base_model)
    data.check_lengths(lm, task, sampling, validated=validation.limit, answers=not objective.on_policy)
    start = time.perf_counter()
    adapter.inject(lm.model, lm.source)
    inject_seconds = time.perf_counter() - start
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
        prompts=frozenset(prompt_hashes([*data.schedule.used(cfg.steps).values(), *task.split("val")])),
        **origin(adapter),
    )
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
        micro_batch_tokens=cfg.micro_batch_tokens,
        share_prompts=cfg.share_prompts,
        kl_every=cfg.kl_every,
        score_workers=cfg.score_workers,
        seed=cfg.seed,
    )
    module.phases.total_seconds["svd" if isinstance(adapter, SVF) else "inject"] = inject_seconds
    return module, data, callbacks, after


def build_callbacks(cfg: DictConfig) -> tuple[list[L.Callback], Validation]:
    """The callbacks in their order, and the one among them that validates."""
    callbacks = list(instantiate(cfg.callbacks).values())
    validation = validation_of(callbacks)
    if cfg.trainer.get("fast_dev_run"):
        validation.limit = min(validation.limit or cfg.prompts_per_step, cfg.prompts_per_step)
    return serve_lightning(callbacks, validation, run=Path(cfg.paths.run)), validation


def build_after(cfg: DictConfig, task: Task, sampling: Sampling, *, limit: int | None) -> AfterTraining | None:
    """What is scored after training; None without a strategy. ValueError where there is a pool, and no strategy."""
    strategy, pool = instantiate(cfg.get("strategy")), instantiate(cfg.get("experts"))
    if strategy is None:
        if pool is not None:
            raise ValueError("experts= is a pool that a strategy chooses from after training: give strategy=, too.")
        return None
    return AfterTraining.of(
        strategy, task, pool=pool, sampling=sampling, limit=limit, shots=cfg.shots, support_split=cfg.support_split,
        pass2=cfg.pass2, seed=cfg.seed, workers=cfg.score_workers,
    )  # fmt: skip


def report(
    cfg: DictConfig, module: ExpertTraining, callbacks: list[L.Callback], after: AfterTraining | None, *, start: float
) -> Results:
    """Write `results.json` of a finished run: its validations, and the strategy's; log where its files are."""
    run, task = Path(cfg.paths.run), module.task
    validation = validation_of(callbacks)
    adapted, parts = ({}, {"strategy": "fixed"}) if after is None else after.results(module, run)
    validated = {BASE: validation.reports[0], EXPERT: validation.reports[validation.best_step], **adapted}
    scores, paired = summarize(validated, majority=validation.majority)
    results = Results(
        command="train",
        base_model=module.lm.source,
        adapter=adapter_name(module.adapter),
        task=task.name,
        split="val",
        headline=validation.best,
        trainable_parameters=sum(p.numel() for p in module.adapter.trainable()),
        scores={task.name: scores},
        paired={task.name: paired},
        data=describe_data([task]),
        seconds={**module.phases.total_seconds, "total": time.perf_counter() - start},
        seed=cfg.seed,
        **parts,
    ).write(run)
    log.info("Validation, best step %d:\n%s", validation.best_step, results_table(results).text())
    log.info("Seconds: %s", seconds_text(results.seconds))
    saved, words = saved_file(run, module.adapter), evaluation_words(cfg, module.adapter)
    log.info("Expert: %s\nNext: %s %s", saved, typed("evaluate"), " ".join(words))
    return results


def evaluation_words(cfg: DictConfig, adapter: Adapter) -> list[str]:
    """The command line of evaluate.py that scores this run."""
    chosen = [word for word in overrides_of(Path(cfg.paths.run), "adapter") if word != "adapter=svf"]  # its default
    about = adapter.describe() if cfg.seed and isinstance(adapter, NamedAdapter) else {}
    drawn = [f"adapter.{key}={value}" for key, value in about.items() if key.endswith(("_seed", "_prng_key"))]
    return [f"task={cfg.task.name}", *chosen, *drawn, f"expert={cfg.paths.run}"]


if __name__ == "__main__":  # how Lightning starts further processes of `t2 train`
    run("train")
