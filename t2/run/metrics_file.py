"""The CSV files of a run, read back: `metrics.csv`, and those of callbacks that have several rows of a step.

Written by `t2.run.metrics_csv`, which is a logger of Lightning's.
"""

from __future__ import annotations

import csv
from pathlib import Path

from t2.run.files import read_lines


def read_metrics(path: Path) -> dict[int, dict[str, str]]:
    """Rows of a metrics file by step, without the empty cells.

    Raises:
        ValueError: the file has no `step` column, or is damaged.
    """
    rows = read_steps(path)
    return {int(row["step"]): {name: cell for name, cell in row.items() if name != "step" and cell} for row in rows}


def read_steps(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of a run, each of which has a step, of which there may be several of one step.

    Raises:
        ValueError: the file has no `step` column, or is damaged.
    """
    way_out = "Move it away; the run goes on without its rows."
    try:
        reader = csv.DictReader(read_lines(path, way_out))
        if "step" not in (reader.fieldnames or []):
            raise ValueError(f"{path} has no column 'step'; it is not a {path.name} of t2. {way_out}")
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is damaged: {error}. {way_out}") from error
    for number, row in enumerate(rows, start=2):
        if not (row["step"] or "").isdecimal() or None in row:
            raise ValueError(f"{path} is damaged: line {number} reads {list(row.values())}. {way_out}")
    return rows
