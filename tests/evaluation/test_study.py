"""t2.evaluation.study: joining runs, seeds averaged question by question, tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2.evaluation.study import main, read_study, score_table, shots_of, write_study

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
    results = {"seed": seed, "scores": {task: {system: {"majority": 0.25} for system in scores}}, **more}
    (path / "results.json").write_text(json.dumps(results))
    return path


BASE = [0.0, 0.0, 1.0, 0.0]


def test_seeds_are_averaged_question_by_question(tmp_path: Path) -> None:
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


def test_other_questions_are_refused(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE})
    two = run_folder(tmp_path / "b", {"base": BASE}, seed=1, prompts="abce")
    with pytest.raises(ValueError, match="other questions of sums"):
        read_study([one, two])


def test_one_seed_with_two_results_is_refused(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE, "prompt": [1.0] * 4})
    two = run_folder(tmp_path / "b", {"base": BASE, "prompt": [0.0] * 4})
    with pytest.raises(ValueError, match="prompt on sums was run twice with seed 0"):
        read_study([one, two])


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finished evaluations"):
        read_study([tmp_path])


def test_shots_are_told_from_names_and_sorted(tmp_path: Path) -> None:
    scores = dict.fromkeys(("base", "few_shot", "few_shot_20", "few_shot_3"), BASE)
    found = shots_of(read_study([run_folder(tmp_path / "a", scores)]))
    assert list(found[TASK]) == [3, 20]


def test_the_table_has_a_line_per_system_that_was_run(tmp_path: Path) -> None:
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, "uniform": [1.0, 0.0, 1.0, 0.0]})])
    lines = score_table(study, ["base", "prompt", "uniform"], [TASK]).splitlines()
    assert len(lines) == 5
    assert lines[3].startswith("| uniform | 50.0 ± 28.9 (+25.0 [")
    assert lines[-1] == "| majority class | 25.0 % |"


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(
        tmp_path / "a",
        {"base": BASE, "prompt": [1.0, 0.0, 1.0, 0.0], "few_shot_3": BASE},
        weights={TASK: {"prompt": {"math": 0.75}}},
        pass_seconds={TASK: {"prompt": {"pass1": 1.0, "pass2": 8.0}}},
        confusion={"prompt": {"labels": ["math", "other"], "counts": [[3, 1], [0, 0]]}},
    )
    main([str(run), "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "| prompt | sums | 1.0 | 8.0 | 12 % |" in text
    assert "| prompt | sums | 0.75 |" in text
    assert "| math | 0.75 | 0.25 | 4 |" in text
    assert "## Shots, sums" in text
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert written["cells"][TASK]["prompt"]["paired"]["difference"] == 0.25
    for name in ("scores.png", "confusion_prompt.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_runs_with_shots_alone_need_no_score_table(tmp_path: Path) -> None:
    text = write_study(read_study([run_folder(tmp_path / "a", {"base": BASE, "few_shot_3": BASE})]), tmp_path / "out")
    assert text.startswith("## Shots")
