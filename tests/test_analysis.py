"""Tables and figures say what the run folders hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2.analysis import main, plot_learning_curve, results_table, seconds_table

RESULTS = {
    "scores": {
        "gcd": {
            "base": {"mean": 0.25, "stderr": 0.05, "n": 80, "majority": 0.3},
            "expert": {"mean": 0.5, "stderr": None, "n": 80, "majority": None},
        }
    },
    "paired": {"gcd": {"expert": {"difference": 0.25, "ci95": [0.1, 0.4], "p_value": 0.00123}}},
    "seconds": {"rollout": 12.34, "score": 0.0, "total": 20.0},
}
METRICS = "step,train/score,val/score,val/stderr,seconds/rollout,seconds/update\n0,0.1,0.2,0.05,3,4\n1,0.3,,,3,4\n"


def test_a_line_per_system_with_its_numbers() -> None:
    header, _, base, expert = results_table(RESULTS).splitlines()
    assert header.split() == ["task", "system", "score", "vs", "base", "95%", "interval", "p", "n", "majority"]
    assert base.split() == ["gcd", "base", "25.0", "%", "±", "5.0", "80", "30.0", "%"]
    assert expert.split() == ["gcd", "expert", "50.0", "%", "+25.0", "[+10.0,", "+40.0]", "0.0012", "80"]


def test_phases_without_time_are_left_out() -> None:
    assert seconds_table(RESULTS["seconds"]) == "rollout 12.3 s, total 20.0 s"


def test_curves_of_several_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(METRICS)
    plot_learning_curve([tmp_path / "a", tmp_path / "b"], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no metrics"):
        plot_learning_curve([tmp_path], tmp_path / "curve.png")


def test_the_command_prints_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    main([str(tmp_path), "--figure", str(tmp_path / "curve.png")])
    assert "50.0 %" in capsys.readouterr().out
    assert not (tmp_path / "curve.png").exists()  # an evaluation has no curve
    (tmp_path / "metrics.csv").write_text(METRICS)
    main([str(tmp_path), "--figure", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").exists()


def test_the_command_refuses_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no results.json" in capsys.readouterr().err
