"""A CSV logger whose file survives a resumed run.

Lightning's own CSVLogger deletes the metrics of the run it resumes. This one reads them back, drops rows that the
resumed run computes again, and rewrites the file atomically, so that it is whole at any moment.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from t2.run.files import atomic_path
from t2.run.metrics_file import read_metrics
from t2.run.results import METRICS_FILE


class MetricsCSV(Logger):
    """Writes `metrics.csv` into a folder: a row per step, a column per metric, empty where not measured."""

    def __init__(self, folder: str) -> None:
        """Continue the file of `folder` if there is one."""
        super().__init__()
        self.path = Path(folder) / METRICS_FILE
        self.rows: dict[int, dict[str, str]] = read_metrics(self.path) if self.path.exists() else {}

    @property
    def name(self) -> str:
        """The file's stem."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one version."""
        return ""

    def resume_at(self, step: int) -> None:
        """Forget rows from `step` on: they are computed again."""
        self.rows = {known: row for known, row in self.rows.items() if known < step}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Merge the metrics into the row of `step` and rewrite the file."""
        assert step is not None, "t2 logs every metric with its step"
        row = self.rows.setdefault(step, {})
        row.update({name: f"{value:.6g}" for name, value in metrics.items() if name != "epoch"})
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's configuration lies in `.hydra/config.yaml`."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows, ordered by step."""
        columns = sorted({name for row in self.rows.values() for name in row})
        with atomic_path(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns], restval="")
            writer.writeheader()
            writer.writerows({"step": str(step), **self.rows[step]} for step in sorted(self.rows))
