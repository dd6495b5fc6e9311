"""t2.evaluation.study: joining runs, seeds averaged example by example, tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from results_files import results_of

from t2.evaluation.results import Confusion, Score
from t2.evaluation.study import main, read_study, score_table, shots_of, study_tables, write_study

TASK = "sums"


def run_folder(
    path: Path, scores: dict[str, list[float]], *, seed: int = 0, task: str = TASK, prompts: str = "abcd", **more: Any
) -> Path:
    path.mkdir(parents=True)
    lines = [
        {"task": task, "system": system, "prompt": prompt, "score": score}
        for system, values in scores.items()
        for prompt, score in zip(prompts, values, strict=True)
    ]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = {system: Score(fmean(values), None, len(values), 0.25) for system, values in scores.items()}
    results_of(seed=seed, scores={task: table}, **more).write(path)
    return path


BASE = [0.0, 0.0, 1.0, 0.0]


def test_seeds_are_averaged_example_by_example(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE, "few_shot": [1.0, 1.0, 1.0, 0.0]}, seed=0)
    two = run_folder(tmp_path / "b", {"base": BASE, "few_shot": [1.0, 0.0, 0.0, 0.0]}, seed=1)
    cell = read_study([one, two]).cells[TASK]["few_shot"]
    assert cell.seeds == {0: 0.75, 1: 0.25}
    assert cell.mean == pytest.approx(0.5)
    assert cell.n == 4
    assert cell.stderr == pytest.approx((0.5 / 3) ** 0.5 / 2)  # of 1, 0.5, 0.5, 0
    assert cell.paired is not None
    assert cell.paired.difference == pytest.approx(0.25)


def test_the_base_is_paired_with_nothing_and_counted_once(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / str(seed), {"base": BASE}, seed=seed) for seed in range(3)]
    cell = read_study(runs).cells[TASK]["base"]
    assert cell.paired is None
    assert (cell.mean, cell.n, cell.majority) == (0.25, 4, 0.25)


def test_other_examples_are_refused(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE})
    two = run_folder(tmp_path / "b", {"base": BASE}, seed=1, prompts="abce")
    with pytest.raises(ValueError, match="other examples of sums"):
        read_study([one, two])


def test_one_seed_with_two_results_is_refused(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE, "prompt": [1.0] * 4})
    two = run_folder(tmp_path / "b", {"base": BASE, "prompt": [0.0] * 4})
    with pytest.raises(ValueError, match="prompt on sums was run twice with seed 0"):
        read_study([one, two])


@pytest.mark.parametrize(("present", "match"), [(False, "holds no results.json"), (True, "of finished evaluations")])
def test_an_unfinished_run_is_refused(tmp_path: Path, present: bool, match: str) -> None:
    if present:
        results_of().write(tmp_path)
    with pytest.raises(FileNotFoundError, match=match):
        read_study([tmp_path])


def test_shots_are_told_from_names_and_sorted(tmp_path: Path) -> None:
    scores = dict.fromkeys(("base", "few_shot", "few_shot_20", "few_shot_3"), BASE)
    found = shots_of(read_study([run_folder(tmp_path / "a", scores)]))
    assert list(found[TASK]) == [3, 20]


def test_the_table_has_a_line_per_system_that_was_run(tmp_path: Path) -> None:
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, "uniform": [1.0, 0.0, 1.0, 0.0]})])
    lines = score_table(study, ["base", "prompt", "uniform"], [TASK]).markdown().splitlines()
    assert len(lines) == 5
    assert lines[3].startswith("| uniform | 50.0 ± 28.9 (+25.0 [")
    assert lines[-1] == "| majority class | 25.0 % |"


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(
        tmp_path / "a",
        {"base": BASE, "prompt": [1.0, 0.0, 1.0, 0.0], "few_shot_3": BASE},
        mixing_weights={TASK: {"prompt": {"math": 0.75}}},
        pass_seconds={TASK: {"prompt": {"pass1": 1.0, "pass2": 8.0}}},
        confusion={"prompt": Confusion(("math", "other"), ((3, 1), (0, 0)))},
    )
    main([str(run), "--out", str(tmp_path / "out")])
    assert ["sums", "prompt", "1.0", "8.0", "12", "%"] in map(str.split, capsys.readouterr().out.splitlines())
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| sums | prompt | 1.0 | 8.0 | 12 % |" in text
    assert "| sums | prompt | 0.75 |" in text
    assert "| math | 0.75 | 0.25 | 4 |" in text
    assert "## Shots, sums" in text
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert written["cells"][TASK]["prompt"]["paired"]["difference"] == 0.25
    for name in ("scores.png", "confusion_prompt.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_runs_with_shots_alone_need_no_score_table(tmp_path: Path) -> None:
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, "few_shot_3": BASE})])
    write_study(study, tmp_path / "out")
    assert [title for title, _ in study_tables(study)] == ["Shots, sums"]
    assert not (tmp_path / "out" / "scores.png").exists()


BAD_SAMPLES = {
    "damaged": ('{"task": "sums", "sys', "samples.jsonl, line 1, is not of an evaluation"),
    "of training": ('{"step": 0, "prompt": "a"}', "samples.jsonl, line 1, is not of an evaluation"),
    "several": (
        '{"task": "sums", "system": "base", "prompt": "a", "score": 1, "sample": 0}', "needs sampling.samples=1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_other_samples_are_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, message = BAD_SAMPLES[case]
    run = run_folder(tmp_path / "a", {"base": BASE})
    (run / "samples.jsonl").write_text(line + "\n")
    with pytest.raises(SystemExit):
        main([str(run), "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


def test_confusion_matrices_of_all_runs_are_summed(tmp_path: Path) -> None:
    found = {"classifier": Confusion(("math", "other"), ((2, 1), (0, 3)))}
    runs = [run_folder(tmp_path / str(seed), {"base": BASE}, seed=seed, confusion=found) for seed in range(3)]
    assert read_study(runs).confusion["classifier"].counts == ((6, 3), (0, 9))
    other = {"classifier": Confusion(("code", "other"), ((2, 1), (0, 3)))}
    with pytest.raises(ValueError, match="one run chose among math, other, another among code, other"):
        read_study([*runs, run_folder(tmp_path / "9", {"base": BASE}, seed=9, confusion=other)])
