"""Tables and figures show what the run folders hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from results_files import PAIR, results_of

from t2.evaluation.figures import Difference, plot_confusion, plot_differences, plot_learning_curve
from t2.evaluation.results import Confusion, Results, Score, Statistic
from t2.evaluation.table import Table
from t2.evaluation.tables import (
    BAR_CELLS,
    bars,
    confusion_table,
    groups_table,
    main,
    number_table,
    results_table,
    results_text,
    seconds_text,
    weights_table,
)

RESULTS = results_of()
METRICS = "step,train/score,val/score,val/stderr,seconds/rollout,seconds/update\n0,0.1,0.2,0.05,3,4\n1,0.3,,,3,4\n"


def test_a_line_per_system_with_its_numbers() -> None:
    header, _, base, expert = results_table(RESULTS).text().splitlines()
    assert header.split() == ["task", "system", "score", "vs", "base", "95%", "interval", "p", "n", "majority"]
    assert base.split() == ["gcd", "base", "25.0", "%", "±", "5.0", "80", "30.0", "%"]
    assert expert.split() == ["gcd", "expert", "50.0", "%", "+25.0", "[+10.0,", "+40.0]", "0.0012", "80"]


def test_phases_without_time_are_left_out() -> None:
    assert seconds_text(RESULTS.seconds) == "rollout 12.3 s, total 20.0 s"


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
    RESULTS.write(tmp_path)
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


def with_pool() -> Results:
    half = Score(0.5, 0.05, 80, 0.3)
    return results_of(
        scores={"gcd": {"base": Score(0.25, 0.05, 80, 0.3), "expert:gcd": half, "prompt": half}},
        paired={"gcd": {"expert:gcd": PAIR, "prompt": PAIR}},
        pass_seconds={"gcd": {"prompt": {"pass1": 1.25, "pass2": 10.0}}},
        mixing_weights={"gcd": {"expert:gcd": {"gcd": 1.0, "math": 0.0}, "prompt": {"gcd": 0.75, "math": 0.2}}},
        confusion={"prompt": Confusion(("gcd", "math", "other"), ((3, 1, 0), (0, 0, 0), (0, 0, 0)))},
        seconds={"pass1": 1.25, "total": 20.0},
    )


def test_seconds_of_each_pass_stand_beside_the_systems_that_have_two() -> None:
    header, _, base, _, prompt = results_table(with_pool()).text().splitlines()
    assert header.split()[-4:] == ["pass", "1", "pass", "2"]
    assert base.endswith("30.0 %")
    assert prompt.split()[-4:] == ["1.2", "s", "10.0", "s"]


def test_weights_have_a_column_per_domain_and_leave_single_experts_out() -> None:
    header, _, row = weights_table(with_pool().mixing_weights).text().splitlines()
    assert header.split() == ["task", "system", "gcd", "math"]
    assert row.split() == ["gcd", "prompt", "0.75", "0.20"]


def test_confusion_leaves_out_domains_without_prompts() -> None:
    header, _, row = confusion_table(with_pool().confusion["prompt"]).text().splitlines()
    assert header.split() == ["true", "\\", "chosen", "gcd", "math", "other", "n"]
    assert row.split() == ["gcd", "0.75", "0.25", "0.00", "4"]


def test_everything_is_shown_where_it_is_there() -> None:
    text = results_text(with_pool())
    for part in ("expert:gcd", "Mean mixing weights:", "Chosen by prompt:", "\nright: 75.0 %", "Seconds: pass1"):
        assert part in text
    assert "weights" not in results_text(RESULTS)


def with_parts() -> Results:
    easy, hard = Statistic(0.5, 0.1, 30), Statistic(0.25, None, 1)
    return results_of(
        by_group={
            "gcd": {"base": {"level": {"easy": easy, "hard": hard}}, "expert": {"level": {"easy": hard, "hard": easy}}}
        },
        reasons={"gcd": {"base": {"wrong": 12, "timeout": 1}, "expert": {"wrong": 3, "oom": 2}, "x": {}}},
        pass_at_k={"gcd": {"base": {"1": 0.25, "5": 0.5}, "expert": {"1": 0.5, "5": 0.75}}},
    )


def test_groups_have_a_line_per_value_and_a_column_per_system() -> None:
    header, _, easy, hard = groups_table(with_parts().by_group).text().splitlines()
    assert header.split() == ["task", "group", "value", "n", "base", "expert"]
    assert easy.split() == ["gcd", "level", "easy", "30", "50.0", "%", "25.0", "%"]
    assert hard.split() == ["gcd", "level", "hard", "1", "25.0", "%", "50.0", "%"]


def test_a_system_that_was_left_out_of_a_task_has_no_cell_in_its_groups() -> None:
    one = {"level": {"easy": Statistic(0.5, None, 1)}}
    _, _, first, second = groups_table({"a": {"base": one}, "b": {"base": one, "random:a": one}}).text().splitlines()
    assert (first.count("50.0"), second.count("50.0")) == (1, 2)


def test_reasons_that_a_system_has_not_are_blank() -> None:
    header, _, base, expert, none = number_table(with_parts().reasons, "d").text().splitlines()
    assert header.split() == ["task", "system", "wrong", "timeout", "oom"]
    assert base.split() == ["gcd", "base", "12", "1"]
    assert expert.split() == ["gcd", "expert", "3", "2"]
    assert expert.index("2") == header.index("oom")
    assert none.split() == ["gcd", "x"]


def test_parts_are_shown_where_they_are_there() -> None:
    text = results_text(with_parts())
    for part in ("Scores by group:", "Completions by reason:", "pass@k:", "0.750"):
        assert part in text
        assert part not in results_text(RESULTS)


def test_bars_are_as_long_as_their_numbers() -> None:
    one, half, none, negative = bars({"a": 1.0, "half": 0.5, "none": 0.0, "neg": -0.1}).splitlines()
    assert (one.count("█"), half.count("█"), none.count("█"), negative.count("░")) == (BAR_CELLS, BAR_CELLS // 2, 0, 3)
    assert half.startswith("half  █")
    assert negative.endswith("-0.100")


def test_a_number_above_one_sets_the_scale_of_bars() -> None:
    two, one = bars({"a": 2.0, "b": 1.0}).splitlines()
    assert (two.count("█"), one.count("█")) == (BAR_CELLS, BAR_CELLS // 2)


def test_a_confusion_matrix_is_drawn(tmp_path: Path) -> None:
    plot_confusion([[3, 1], [0, 0]], ["math", "other"], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_drawn(tmp_path: Path) -> None:
    panels = {"gcd": {"prompt": Difference(PAIR, [0.2, 0.3])}, "math": {}}
    plot_differences(panels, ["uniform", "prompt"], tmp_path / "scores.png", titles={"gcd": "gcd", "math": "math"})
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_cells_are_plain_text_of_any_width() -> None:
    table = Table(["[bold]a", "b"], [["[+1.0, :smile:]", "x" * 300]])
    header, _, row = table.text().splitlines()
    assert header.split() == ["[bold]a", "b"]
    assert row.split() == ["[+1.0,", ":smile:]", "x" * 300]


def test_markdown_has_the_same_rows_and_escapes_bars() -> None:
    lines = Table(["a", "b"], [["1", "x|y"]]).markdown().splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | x\\|y |"]


@pytest.mark.parametrize("module", ["tables", "compare", "study", "growth", "sweeps"])
def test_whoever_reads_finished_runs_waits_for_no_library_of_models(module: str) -> None:
    """Importing torch and transformers takes eight seconds, and a table of two rows none."""
    code = f"import sys, t2.evaluation.{module}; print({{'torch', 'transformers', 'lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
