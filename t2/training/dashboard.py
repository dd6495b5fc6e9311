"""What a dashboard shows of a training run beside its numbers: completions, alerts, and at the end summary and expert.

Only W&B gets them; without a W&B logger nothing happens. The table of validations grows with the run; that of a run
that is resumed begins with its next validation, for the completions of those before it are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from pydantic import PositiveInt

from t2.evaluation.report import Report
from t2.evaluation.results import Results
from t2.evaluation.system_names import BASE, EXPERT
from t2.evaluation.wandb_results import summary_of
from t2.experts.expert import ExpertMetadata
from t2.run.tracking import artifact, wandb_runs
from t2.training.callbacks import Validation, training_of
from t2.training.module import FLAT_STEPS_BEFORE_WARNING

VALIDATION_COLUMNS = ("step", "prompt", "reference", "answer", "score", "reason", "finish", "tokens")


class Dashboard(L.Callback):
    """Completions of every validation as a table, and alerts where nothing is learned or numbers are not finite.

    It stands after the validation among the callbacks, whose latest report it logs.
    """

    def __init__(self, *, rows: PositiveInt = 16) -> None:
        """Show the first `rows` completions of each validation."""
        self.rows = rows
        self.table: Any = None
        self.shown: set[int] = set()  # steps whose validation is in the table

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the summary hold the best validation instead of the last."""
        for run in wandb_runs(trainer.loggers):
            run.define_metric("val/score", step_metric="trainer/global_step", summary="max")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Log the validation before this step, if there was one."""
        self._log_validation(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Alert after every so many steps in a row that taught nothing."""
        flat = training_of(pl_module).flat_steps
        if flat and flat % FLAT_STEPS_BEFORE_WARNING == 0:
            self._alert(
                trainer, "Nothing is learned", f"{flat} steps in a row had no advantage, to {trainer.global_step}."
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the last validation."""
        self._log_validation(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Alert where a number was not finite."""
        if isinstance(exception, FloatingPointError):
            self._alert(trainer, "Not finite", f"Step {trainer.global_step}: {exception}")

    def _alert(self, trainer: L.Trainer, title: str, text: str) -> None:
        for run in wandb_runs(trainer.loggers):
            run.alert(title=title, text=text, level="WARN")

    def _log_validation(self, trainer: L.Trainer) -> None:
        validations = [one for one in trainer.callbacks if isinstance(one, Validation)]  # type: ignore[attr-defined]
        runs = wandb_runs(trainer.loggers)
        step = trainer.global_step
        report = validations[0].latest if validations else None
        if report is None or step in self.shown or step not in validations[0].reports or not runs:
            return
        self.shown.add(step)
        if self.table is None:
            self.table = wandb.Table(columns=list(VALIDATION_COLUMNS), log_mode="INCREMENTAL")
        for row in validation_rows(report, step, self.rows):
            self.table.add_data(*row)
        for run in runs:
            run.log({"validation": self.table, "trainer/global_step": step})


def validation_rows(report: Report, step: int, rows: int) -> list[list[Any]]:
    """The first completions of a validation."""
    return [
        [step, example.prompt, example.answer, one.text, grade.score, grade.reason, one.finish, len(one.token_ids)]
        for example, (one, *_), (grade, *_) in zip(
            report.examples[:rows], report.samples[:rows], report.grades[:rows], strict=True
        )
    ]


def log_training(
    runs: Sequence[Any],
    results: Results,
    *,
    best_step: int,
    expert: Path,
    metadata: ExpertMetadata,
    figure: Path | None,
) -> None:
    """Log the end of a training run: base, expert and gain in the summary, the expert as an artifact, its figure."""
    (task,) = results.scores
    scores, pair = results.scores[task], results.paired[task][EXPERT]
    told: dict[str, Any] = {
        "val/base": scores[BASE].mean,
        "val/expert": scores[EXPERT].mean,
        "val/gain": pair.difference,
        "val/gain_low": pair.ci95[0],
        "val/gain_high": pair.ci95[1],
        "val/best_step": best_step,
    }
    for run in runs:
        run.summary.update({**summary_of(results), **told})
        run.log_artifact(artifact(expert, metadata.domain, about=vars(metadata) | told), aliases=[f"step{best_step}"])
        if figure is not None:
            run.log({"figures/learning_curve": wandb.Image(str(figure))})
