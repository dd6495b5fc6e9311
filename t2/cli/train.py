"""Train an expert by policy gradient: python train.py [group=choice] [key=value], -m to sweep, resume=RUN to go on.

Composes the configuration, builds the parts and runs them; everything else is in `t2`. The run folder is printed.
"""

from __future__ import annotations

import gc
import logging
import shlex
import time
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from t2.adapters.base import Adapter, NamedAdapter, adapter_name
from t2.adapters.svf import SVF
from t2.cli.main import run
from t2.cli.train_parts import build, divide, is_divided, validation_of
from t2.evaluation.figures import plot_learning_curve
from t2.evaluation.report import Report, describe_data, summarize
from t2.evaluation.results import Results
from t2.evaluation.system_names import BASE, EXPERT, START
from t2.evaluation.tables import results_table, seconds_text
from t2.experts.content import ADAPTER_FILE
from t2.experts.expert import EXPERT_FILE
from t2.run.launch import quiet_libraries
from t2.run.launch_again import words_for
from t2.run.places import typed
from t2.run.results import CURVE_FILE, METRICS_FILE
from t2.run.tracking import tracked, wandb_runs
from t2.run.words import as_typed
from t2.training.callbacks import finish
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.dashboard import log_training
from t2.training.device import ddp_placement, trainer_placement
from t2.training.lightning_callbacks import has_checkpoint
from t2.training.module import ExpertTraining
from t2.training.rollout import warn_of_cut_off
from t2.training.trained_pool import AfterTraining

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> Results | None:
    """Train as configured, or go on with an interrupted run; returns what `results.json` holds.

    None where this is one of several processes, and not the first.
    """
    start = time.perf_counter()
    gc.collect()  # the model of a sweep's job before: its trainer and its module hold each other
    quiet_libraries()
    L.seed_everything(cfg.seed, verbose=False)
    run = Path(cfg.paths.run)
    several = is_divided(cfg)
    if several:
        divide(cfg)
    module, data, callbacks, after = build(cfg)
    module.phases.start_s = start
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
        tell_early_end(trainer)
        # Of a run that began elsewhere; by all processes, which may share one sharded model.
        base = validation_of(callbacks).score_base(module) if begins_elsewhere(cfg, module.adapter) else None
        if not trainer.is_global_zero:
            return None
        results = report(cfg, module, callbacks, after, base=base)
        curve = run / CURVE_FILE if (run / METRICS_FILE).is_file() else None  # without the logger csv there are none
        if curve is not None:
            plot_learning_curve([run], curve)  # after the results: no figure is worth a run
        log_training(
            wandb_runs(loggers), results, best_step=validation_of(callbacks).best_step,
            expert=saved_file(run, module.adapter), metadata=module.metadata, figure=curve,
        )  # fmt: skip
    return results


def tell_early_end(trainer: L.Trainer) -> None:
    """Say in the log where a run has ended before its last step: Lightning's own words are silenced."""
    if trainer.global_step < trainer.max_steps:
        log.warning(
            "Training ended at step %d of %d, by early stopping or trainer.max_time.",
            *(trainer.global_step, trainer.max_steps),
        )


def about(cfg: DictConfig, module: ExpertTraining) -> dict[str, Any]:
    """What loggers get as hyperparameters: the resolved configuration, the commit, and which data the task has read."""
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**configuration, "git_commit": module.metadata.git_commit, "data": describe_data([module.task])}


def saved_file(run: Path, adapter: Adapter) -> Path:
    """The file of what a run has learned."""
    return run / (EXPERT_FILE if isinstance(adapter, SVF) else ADAPTER_FILE)


def report(
    cfg: DictConfig,
    module: ExpertTraining,
    callbacks: list[L.Callback],
    after: AfterTraining | None,
    *,
    base: Report | None,
) -> Results:
    """Write `results.json` of a finished run: its validations, and the strategy's; log where its files are.

    `base` is that of `Validation.score_base`, None where the first validation is of the base.
    """
    run, task = Path(cfg.paths.run), module.task
    validation = validation_of(callbacks)
    adapted, parts = ({}, {"strategy": "fixed"}) if after is None else after.results(module, run)
    first = validation.reports[0]
    before = {BASE: first} if base is None else {BASE: base.scores, START: first}
    validated = {**before, EXPERT: validation.reports[validation.best_step], **adapted}
    scores, paired = summarize(validated, majority=validation.majority)
    results = Results(
        command="train",
        base_model=module.lm.source,
        adapter=adapter_name(module.adapter),
        task=task.name,
        split="val",
        headline=validation.best,
        best_step=validation.best_step,
        trainable_parameters=sum(p.numel() for p in module.adapter.trainable()),
        scores={task.name: scores},
        paired={task.name: paired},
        data=describe_data([task]),
        seconds={**module.phases.total_seconds, "total": module.phases.elapsed_s()},
        seed=cfg.seed,
        **parts,
    ).write(run)
    log.info("Validation, best step %d:\n%s", validation.best_step, results_table(results).text())
    if validation.best_step == 0:
        log.warning("No later expert that could be kept was better: what is saved is what training began with.")
    warn_of_cut_off(module.metrics, module.sampling.max_new_tokens)
    log.info("Seconds: %s", seconds_text(results.seconds))
    saved, words = saved_file(run, module.adapter), evaluation_words(cfg, module.adapter)
    log.info("Expert: %s\nNext: %s %s", saved, typed("evaluate"), shlex.join(words))
    return results


def begins_elsewhere(cfg: DictConfig, adapter: Adapter) -> bool:
    """Whether the first validation is not that of the base."""
    return bool(cfg.start_from) or not begins_as_base(adapter)


def begins_as_base(adapter: Adapter) -> bool:
    """Whether nothing is changed before the first step: the authors' parametrization draws its first numbers."""
    return not isinstance(adapter, SVF) or adapter.parametrization == "direct"


def evaluation_words(cfg: DictConfig, adapter: Adapter) -> list[str]:
    """The command line of evaluate.py that scores this run."""
    try:
        parts = words_for("evaluate", Path(cfg.paths.run), ("task", "base_model", "adapter"))
    except ValueError as error:  # the run is done, and its files are there
        log.warning("What has to be said to evaluate.py is not known: %s", error)
        parts = []
    task = [] if any(word.startswith("task=") for word in parts) else [f"task={cfg.task.name}"]
    about = adapter.describe() if cfg.seed and isinstance(adapter, NamedAdapter) else {}
    drawn = [f"adapter.{key}={value}" for key, value in about.items() if key.endswith(("_seed", "_prng_key"))]
    return [*task, *parts, *drawn, f"expert={as_typed(cfg.paths.run)}"]


if __name__ == "__main__":  # how Lightning starts further processes of `t2 train`
    run("train")
