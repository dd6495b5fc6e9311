"""Some completions of a training run, as rows of `samples.jsonl` and of a W&B table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from pydantic import PositiveInt

from t2.run.files import atomic_path, parse_json, read_lines
from t2.run.results import SAMPLES_FILE
from t2.run.tracking import wandb_runs
from t2.training.callbacks import training_of
from t2.training.rollout import StepRecord


class SampleTable(L.Callback):
    """Some completions of every n-th step: `samples.jsonl` in the run folder, and the same rows as a table in W&B.

    First comes one of each prompt, then a second of each, and so on.
    """

    COLUMNS = ("step", "prompt", "reference", "answer", "score", "reason", "finish", "tokens")

    def __init__(self, *, every: PositiveInt = 5, rows: PositiveInt = 8) -> None:
        """Record `rows` completions."""
        self.every, self.rows = every, rows
        self.table: Any = None  # of W&B, which gets only what is new

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Record the step that just ended."""
        record = training_of(pl_module).last_step
        if record is None or record.step % self.every or not trainer.is_global_zero:
            return
        new = [dict(zip(self.COLUMNS, row, strict=True)) for row in _rows(record)[: self.rows]]
        path = Path(trainer.default_root_dir) / SAMPLES_FILE
        hint = "Move it away; the run goes on without its rows."
        lines = read_lines(path, hint) if path.exists() else []
        known = [parse_json(line.encode(), f"A line of {path}", hint) for line in lines]
        kept = [row for row in known if row["step"] < record.step]
        with atomic_path(path) as partial:
            partial.write_text("\n".join(json.dumps(row) for row in [*kept, *new]) + "\n")
        runs = wandb_runs(trainer.loggers)
        if runs and self.table is None:
            self.table = wandb.Table(columns=list(self.COLUMNS), log_mode="INCREMENTAL")
            new = [*kept, *new]
        for row in new if runs else ():
            self.table.add_data(*(row.get(column) for column in self.COLUMNS))
        for run in runs:
            run.log({"samples": self.table, "trainer/global_step": record.step})


def _rows(record: StepRecord) -> list[list[Any]]:
    """A row per completion of a step, with those of one sample of each prompt next to each other."""
    triples = zip(record.examples, record.completions, record.grades, strict=True)
    by_prompt = [[(example, *pair) for pair in zip(group, grades, strict=True)] for example, group, grades in triples]
    return [
        [
            record.step,
            example.prompt,
            example.answer,
            one.text,
            grade.score,
            grade.reason,
            one.finish,
            len(one.token_ids),
        ]
        for of_prompts in zip(*by_prompt, strict=True)
        for example, one, grade in of_prompts
    ]
