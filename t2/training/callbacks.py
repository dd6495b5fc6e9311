"""Callbacks of a training run: validation and the best expert, checkpoints, progress.

Validation is a callback instead of Lightning's loop, since it happens before step k + 1 starts: a run that was killed
after the checkpoint of step k validates on resuming, and ends as if it had not been killed. The test split is not read.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pydantic import PositiveInt
from tqdm import tqdm

from t2.evaluation.report import Report
from t2.evaluation.system_names import BASE, EXPERT
from t2.experts.trained import load_trained, save_trained, why_not_kept
from t2.policy.generator import AdaptableGenerator, Generator
from t2.run.metrics_csv import MetricsCSV
from t2.run.places import typed
from t2.run.ranks import no_bar
from t2.run.words import for_shell
from t2.tasks.base import greedy
from t2.training.checkpoint_file import LAST_CHECKPOINT, DurableCheckpoints
from t2.training.module import ExpertTraining
from t2.training.ranks import evaluate_divided, note_sigterm

log = logging.getLogger(__name__)


def training_of(module: L.LightningModule) -> ExpertTraining:
    """The module as what it is."""
    assert isinstance(module, ExpertTraining), f"these callbacks serve ExpertTraining, got {type(module).__name__}"
    return module


class Validation(L.Callback):
    """Greedy accuracy on the validation split; keeps the best expert and stops when it no longer improves.

    Completions have the task's length limit and end as its answers do, as evaluate.py's, whatever training samples.
    Runs before the first step (so that an expert is at least as good as what training began with), every `every` steps
    and at the end. `patience` is the number of validations without improvement after which training stops (None: never;
    paper: early stopping on validation).
    """

    def __init__(
        self, *, every: PositiveInt = 5, patience: PositiveInt | None = None, limit: PositiveInt | None = None
    ) -> None:
        """`limit` takes the first so many examples of the split."""
        if every < 1 or (patience is not None and patience < 1) or (limit is not None and limit < 1):
            raise ValueError(f"validation: every={every}, patience={patience}, limit={limit}; all are at least 1.")
        self.every, self.patience, self.limit = every, patience, limit
        self.reports: dict[int, tuple[float, ...]] = {}  # step -> a score per example
        self.best_step = 0
        self.majority: float | None = None  # accuracy of always giving the most frequent answer
        self.latest: Report | None = None  # of the latest validation of this process
        self._resumed = False
        self._found: int | None = None  # step of the expert that was there when a run went on

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Validate before the step, where `every` says so, or where this step's expert is the best that was saved.

        The last validation of a run comes after its last checkpoint, so that a run which goes on does not know it.
        """
        module, step = training_of(pl_module), trainer.global_step
        if step % self.every == 0 or step == self._saved_step(trainer, module):
            self._validate(trainer, module)

    def _saved_step(self, trainer: L.Trainer, module: ExpertTraining) -> int | None:
        """The step of the expert that a resumed run finds in its folder, while its validation is not known."""
        if self._resumed:
            self._resumed = False
            try:
                self._found = load_trained(trainer.default_root_dir, module.adapter).metadata.step
            except FileNotFoundError:  # none was worth keeping
                self._found = None
        return None if self._found in self.reports else self._found

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the last step, unless it was."""
        self._validate(trainer, training_of(pl_module))

    def _validate(self, trainer: L.Trainer, module: ExpertTraining) -> None:
        step = trainer.global_step
        if step in self.reports:
            return
        found = step == self._saved_step(trainer, module)
        with module.phases("validate"):
            report = self._evaluate(module, module.generator, EXPERT)
        self.reports[step], self.majority, self.latest = report.scores, report.majority, report
        if found and report.mean <= self.best and step != self.best_step:
            log.warning(
                "step %d: %.3f is not above step %d's %.3f, but this expert had been saved in its place.",
                *(step, report.mean, self.best_step, self.best),
            )
        if report.mean > self.best or step == self.best_step or found:
            before = self._mean(0) if 0 in self.reports else None
            expert = module.expert(step=step, val_before=before, val_after=report.mean)
            if (reason := why_not_kept(expert)) is None:
                self.best_step = step
                if trainer.is_global_zero:
                    save_trained(expert, module.adapter, Path(trainer.default_root_dir))
            else:
                log.warning("step %d: this expert is not kept, though the best so far: %s", step, reason)
        for logger in trainer.loggers:
            logger.log_metrics({"val/score": report.mean, "val/stderr": report.stderr}, step=step)
        log.info("step %d: validation %.3f (best %.3f, step %d)", step, report.mean, self.best, self.best_step)
        waited = sum(known > self.best_step for known in self.reports)
        if self.patience is not None and waited >= self.patience:
            log.info("No better validation for %d times: training stops at step %d.", waited, step)
            trainer.should_stop = True

    def score_base(self, module: ExpertTraining) -> Report:
        """The base's scores on the same examples, which no validation has where training began with an expert.

        Every rank takes part: one alone cannot run a sharded model.
        """
        assert isinstance(module.generator, AdaptableGenerator), "every generator that a run can have is one"
        base = module.generator.with_state({})
        with module.phases("validate"):
            return self._evaluate(module, base, BASE)

    def _evaluate(self, module: ExpertTraining, generator: Generator, system: str) -> Report:
        task, examples = module.task, module.task.split("val")[: self.limit]
        return evaluate_divided(generator, task, examples, greedy(task), system=system, workers=module.score_workers)

    def _mean(self, step: int) -> float:
        return sum(self.reports[step]) / len(self.reports[step])

    @property
    def best(self) -> float:
        """The best validation score so far."""
        return self._mean(self.best_step)

    def state_dict(self) -> dict[str, Any]:
        """Scores by step, so that a resumed run decides alike."""
        return {
            "reports": {step: list(scores) for step, scores in self.reports.items()},
            "best_step": self.best_step,
            "majority": self.majority,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.reports = {step: tuple(scores) for step, scores in state_dict["reports"].items()}
        self.best_step, self.majority, self._resumed = state_dict["best_step"], state_dict["majority"], True


def finish(trainer: L.Trainer, module: ExpertTraining) -> None:
    """Run what callbacks do at the end of training where the trainer, resumed after the last step, had nothing to do.

    Lightning skips its loop then, hooks included, and a run that was killed in its last validation would never have it.
    """
    callbacks = [callback for callback in trainer.callbacks if isinstance(callback, Validation)]  # type: ignore[attr-defined]
    if all(trainer.global_step in callback.reports for callback in callbacks):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.on_train_end(trainer, module)


class Checkpoints(L.Callback):
    """Writes `checkpoints/last.ckpt` every `every` steps, and says how to go on when a run is interrupted.

    The one before is kept as `checkpoints/previous.ckpt`.
    """

    def __init__(self, *, every: PositiveInt = 1) -> None:
        """Save every `every` steps; checkpoints hold trained parameters only, so one per step costs milliseconds."""
        if every < 1:
            raise ValueError(f"checkpoints: every={every}; allowed: at least 1.")
        self.every = every
        self._saved = 0  # step of the last checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have the trainer write checkpoints durably; before a run that is resumed reads its own."""
        trainer.strategy.checkpoint_io = DurableCheckpoints()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the CSV's rows of steps that will be computed again, and have several ranks stop together."""
        note_sigterm(trainer)
        self._saved = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.resume_at(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save after the step; after the last one, too, for a run that is given more steps goes on there."""
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST_CHECKPOINT, weights_only=False)
            self._saved = trainer.global_step

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Log how to resume the run."""
        run = Path(trainer.default_root_dir)
        if isinstance(exception, SIGTERMException):
            log.warning("Stopped by SIGTERM, at the end of step %d.", trainer.global_step)
        if isinstance(exception, FloatingPointError):  # the same steps would end at the same number
            log.warning("Stopped: resumed with its settings, it would stop there again. Start a new run with others.")
        elif (run / LAST_CHECKPOINT).exists():
            saved = "every finished step is saved" if self.every == 1 else f"the last saved step is {self._saved}"
            log.warning("Stopped; %s. Go on with: %s %s", saved, typed("train"), for_shell("resume", run))


class Progress(L.Callback):
    """A progress bar with score, length and time left; a line per step where there is no terminal."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step the run starts or resumes at."""
        self.first, self.total, self.start = trainer.global_step, int(trainer.max_steps), time.perf_counter()
        self.bar = tqdm(total=self.total, initial=self.first, desc="train", unit="step", disable=no_bar())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Show the step that just ended."""
        metrics = training_of(pl_module).metrics
        score, length = metrics["train/score"], metrics["rollout/length"]
        if not self.bar.disable:
            self.bar.set_postfix(score=f"{score:.2f}", length=f"{length:.0f}", refresh=False)
            self.bar.update(1)
            return
        step = trainer.global_step
        per_step = (time.perf_counter() - self.start) / max(1, step - self.first)
        seconds = training_of(pl_module).phases.step_seconds
        log.info(
            "step %d/%d: score %.2f, length %.0f, %s, %.0f s left",
            *(step, self.total, score, length),
            ", ".join(f"{phase} {value:.1f} s" for phase, value in seconds.items() if phase != "score"),
            per_step * (self.total - step),
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar, if there is one (see `finish`)."""
        if "bar" in vars(self):
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message after it stands on its own line."""
        if "bar" in vars(self):
            self.bar.close()
