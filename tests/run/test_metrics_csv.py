"""metrics.csv: whole at every moment, continued by a resumed run, with columns as they come."""

import csv
import os
from pathlib import Path

import pytest

from t2.run.metrics_csv import MetricsCSV
from t2.run.metrics_file import read_metrics


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, steps: range) -> MetricsCSV:
    logger = MetricsCSV(str(folder))
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step)
    return logger


def test_a_row_per_step_with_metrics_merged(tmp_path):
    logger = logged(tmp_path, range(2))
    logger.log_metrics({"val": 0.5}, 1)
    assert table(tmp_path) == [
        {"step": "0", "loss": "0", "val": ""},
        {"step": "1", "loss": "0.1", "val": "0.5"},
    ]


def test_new_columns_appear_in_a_file_that_exists(tmp_path):
    logged(tmp_path, range(2))
    MetricsCSV(str(tmp_path)).log_metrics({"reward": -1.0}, 2)
    assert [row["reward"] for row in table(tmp_path)] == ["", "", "-1"]
    assert [row["loss"] for row in table(tmp_path)] == ["0", "0.1", ""]


def test_a_resumed_run_keeps_rows_below_its_step_and_drops_the_rest(tmp_path):
    logged(tmp_path, range(5))
    resumed = MetricsCSV(str(tmp_path))
    resumed.resume_at(3)
    resumed.log_metrics({"loss": 9.0}, 3)
    assert [(row["step"], row["loss"]) for row in table(tmp_path)] == [
        ("0", "0"),
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "9"),
    ]


def test_a_column_that_only_dropped_rows_had_goes_with_them(tmp_path):
    logged(tmp_path, range(2)).log_metrics({"late": 1.0}, 2)
    resumed = MetricsCSV(str(tmp_path))
    resumed.resume_at(2)
    resumed.save()
    assert list(table(tmp_path)[0]) == ["step", "loss"]


def test_rows_are_ordered_by_number_whatever_order_they_came_in(tmp_path):
    logger = MetricsCSV(str(tmp_path))
    for step in (10, 9, 100, 1):
        logger.log_metrics({"loss": 1.0}, step)
    assert [row["step"] for row in table(tmp_path)] == ["1", "9", "10", "100"]


def test_the_file_is_whole_while_it_is_rewritten(tmp_path, monkeypatch):
    logger = logged(tmp_path, range(3))
    before = table(tmp_path)
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append(table(tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    logger.log_metrics({"loss": 1.0}, 3)
    assert seen == [before]
    assert len(table(tmp_path)) == 4


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    logger = logged(tmp_path, range(3))
    before = table(tmp_path)

    def crash(self, rows):
        raise RuntimeError("killed")

    monkeypatch.setattr(csv.DictWriter, "writerows", crash)
    with pytest.raises(RuntimeError):
        logger.log_metrics({"loss": 1.0}, 3)
    assert table(tmp_path) == before
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_small_and_negative_numbers_survive(tmp_path):
    values = {"tiny": 1.23456e-9, "minus": -0.25, "large": 123456.0}
    MetricsCSV(str(tmp_path)).log_metrics(values, 7)
    assert {name: float(cell) for name, cell in read_metrics(tmp_path / "metrics.csv")[7].items()} == values


def test_nan_is_written_as_nan(tmp_path):
    MetricsCSV(str(tmp_path)).log_metrics({"loss": float("nan")}, 0)
    assert read_metrics(tmp_path / "metrics.csv") == {0: {"loss": "nan"}}


def test_lightnings_epoch_column_is_left_out(tmp_path):
    MetricsCSV(str(tmp_path)).log_metrics({"loss": 1.0, "epoch": 0}, 0)
    assert list(table(tmp_path)[0]) == ["step", "loss"]


def test_a_metric_without_a_step_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="with its step"):
        MetricsCSV(str(tmp_path)).log_metrics({"loss": 1.0})


def test_a_foreign_csv_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'step'"):
        MetricsCSV(str(tmp_path))
