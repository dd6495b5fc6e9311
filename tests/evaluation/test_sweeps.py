"""A sweep's runs become rows by what was swept, seeds together, with the interval of several or of one."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from results_files import results_of

from t2.evaluation.results import Score
from t2.evaluation.statistics import Paired
from t2.evaluation.sweeps import Row, is_sweep, read_sweep, rows_of, sweep_table, swept_keys, write_sweep
from t2.evaluation.tables import main

ALWAYS = ("experiment=smoke", "logger=csv")


def job(sweep: Path, number: int, expert: float, *overrides: str, task: str = "gcd", **more: Any) -> None:
    run = sweep / str(number)
    scores = {task: {"base": Score(0.2, 0.04, 80, None), "expert": Score(expert, 0.05, 80, None)}}
    paired = {task: {"expert": Paired(expert - 0.2, (0.0, 0.1), 0.5)}}
    results_of(scores=scores, paired=paired, **more).write(run)
    OmegaConf.save(OmegaConf.create([*ALWAYS, *overrides]), run / "overrides.yaml")
    (run / ".hydra").mkdir()
    (run / "overrides.yaml").rename(run / ".hydra" / "overrides.yaml")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two learning rates and three seeds, of one of which a job has failed."""
    for number, (lr, seed, expert) in enumerate(
        [("1e-3", 0, 0.3), ("1e-3", 1, 0.4), ("1e-3", 2, 0.5), ("0.0123456", 0, 0.6)]
    ):
        job(
            tmp_path, number, expert, f"optimizer.lr={lr}", f"+seed={seed}", "skip_finished=true" if seed else "steps=2"
        )
    (tmp_path / ".jobs").mkdir()
    for number in range(5):
        record = {"number": number, "folder": str(tmp_path / str(number)), "overrides": []}
        (tmp_path / ".jobs" / f"{number}.json").write_text(json.dumps(record))
    return tmp_path


def test_keys_that_differ_are_columns_and_seeds_are_one_row(sweep: Path) -> None:
    runs = read_sweep(sweep)
    assert swept_keys(runs) == ["optimizer.lr", "seed", "steps"]  # how it was started decides nothing
    for run in runs:
        run.overrides.pop("steps", None)  # type: ignore[attr-defined]
    keys, rows = rows_of(runs)
    assert keys == ["optimizer.lr"]
    assert [(row.setting, row.system, row.scores) for row in rows if row.system == "expert"] == [
        (("1e-3",), "expert", (0.3, 0.4, 0.5)), (("0.0123456",), "expert", (0.6,)),
    ]  # fmt: skip
    several, single = (row for row in rows if row.system == "expert")
    half = 4.302653 * 0.1 / sqrt(3)  # Student's t of two degrees of freedom
    assert several.ci95 == pytest.approx((0.4 - half, 0.4 + half))
    assert single.ci95 == pytest.approx((0.6 - 1.96 * 0.05, 0.6 + 1.96 * 0.05))
    *_, first, _, second = sweep_table(keys, rows).text().splitlines()
    assert first.split()[:6] == ["0.001", "gcd", "expert", "40.0", "±", "10.0"]
    assert first.split()[-4:] == ["+20.0", "±", "10.0", "3"]
    assert second.split()[0] == "0.01235"


def test_a_swept_task_is_one_column(tmp_path: Path) -> None:
    for number, task in enumerate(("gcd", "products")):
        job(tmp_path, number, 0.5, f"task={task}", task=task)
    keys, rows = rows_of(read_sweep(tmp_path))
    assert sweep_table(keys, rows).header[:2] == ["task", "system"]
    assert [row.task for row in rows if row.system == "expert"] == ["gcd", "products"]


def test_the_command_writes_one_table_and_one_figure(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep)])
    out = capsys.readouterr().out
    assert "optimizer.lr" in out
    assert "Jobs without a result: 4." in out
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (sweep / "sweep.md").read_text().startswith("| optimizer.lr |")
    assert not is_sweep(sweep / "0")


def test_runs_without_a_command_line_are_refused(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "0" / ".hydra" / "overrides.yaml").unlink()
    with pytest.raises(SystemExit):
        main([str(sweep)])
    assert "what was swept is not known" in capsys.readouterr().err


def test_runs_that_answer_alike_have_the_interval_of_their_questions():
    alone = Row((), "gcd", "base", (0.25,), (), 0.05)
    alike = Row((), "gcd", "base", (0.25, 0.25, 0.25), (), 0.05)
    assert alike.ci95 == alone.ci95


def test_a_sweep_that_was_moved_lacks_no_job(tmp_path):
    made = tmp_path / "made"
    for number in range(2):
        run = made / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "overrides.yaml").write_text(f"- seed={number}\n")
        results_of(seed=number, scores={"gcd": {"base": Score(0.25, 0.05, 80, None)}}).write(run)
        (made / ".jobs").mkdir(exist_ok=True)
        record = {"number": number, "folder": str(run), "overrides": [f"seed={number}"], "state": "finished"}
        (made / ".jobs" / f"{number}.json").write_text(json.dumps(record))
    made.rename(tmp_path / "moved")
    assert "without a result" not in write_sweep(tmp_path / "moved")
