"""t2.evaluation.study: seeds averaged example by example, gains over the form control, tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from results_files import results_of

from t2.evaluation.results import Confusion, Null, Selection
from t2.evaluation.study import main, read_study, write_study
from t2.evaluation.study_tables import compared, score_table, shots_of, study_tables
from tests.evaluation.run_folders import BASE, TASK, run_folder


def test_seeds_are_averaged_example_by_example(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "a", {"base": BASE, "few_shot": [1.0, 1.0, 1.0, 0.0]}, seed=0)
    two = run_folder(tmp_path / "b", {"base": BASE, "few_shot": [1.0, 0.0, 0.0, 0.0]}, seed=1)
    cell = read_study([one, two]).cells[TASK]["few_shot"]
    assert cell.seeds == {"0": 0.75, "1": 0.25}
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
    named = ("base", "few_shot", "expert:products_2", "reversed:gcd_30")
    study = read_study([run_folder(tmp_path / "a", dict.fromkeys((*named, "few_shot_20", "few_shot_3"), BASE))])
    assert list(shots_of(study)[TASK]) == [3, 20]
    assert compared(study) == ([*named], [TASK])


def test_the_table_has_a_line_per_system_that_was_run(tmp_path: Path) -> None:
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, "uniform": [1.0, 0.0, 1.0, 0.0]})])
    lines = score_table(study, ["base", "prompt", "uniform"], TASK).markdown().splitlines()
    assert len(lines) == 4
    assert lines[0] == "| system | score | vs form | vs base | cut | of oracle | seeds |"
    assert lines[3].startswith("| uniform | 50.0 ± 28.9 |  | +25.0 [")
    assert study_tables(study)[0][0] == "sums: 4 questions; majority class 25.0 %"


TOLD = {
    "base": BASE, "base+prefix": [1.0, 0.0, 1.0, 0.0], "expert:a": [1.0] * 4, "oracle": [1.0, 1.0, 1.0, 0.0],
}  # fmt: skip


def told(path: Path, form: str, *, seed: int = 0, split: str = "val", **more: Any) -> Path:
    """A run that chose this form control on ten examples."""
    chosen = {TASK: Selection(split, more.pop("n", 10), form, None, {})}
    return run_folder(path, TOLD, seed=seed, selection=chosen, split="test", **more)


def test_gains_are_over_the_form_control_that_was_chosen_and_beside_it_over_the_base(tmp_path: Path) -> None:
    cut = {TASK: dict.fromkeys(TOLD, 0.25)}
    run = told(tmp_path / "a", "base+prefix", null={TASK: Null("a number", 0.5)}, truncated=cut)
    study = read_study([run])
    cell = study.cells[TASK]["expert:a"]
    assert cell.paired is not None
    assert cell.paired_form is not None
    assert (cell.paired.difference, cell.paired_form.difference) == (0.75, 0.5)
    assert (cell.truncated, cell.of_oracle) == (0.25, pytest.approx(4 / 3))
    assert study.cells[TASK]["base+prefix"].paired_form is None
    assert study.notes == []
    title, table = study_tables(study)[0]
    assert title == (
        "sums: 4 questions; guessing scores 50.0 % (a number), which the base is below; "
        "best form control base+prefix, 50.0 %"
    )
    assert "| expert:a | 100.0 ± 0.0 | +50.0 [" in table.markdown()
    write_study(study, tmp_path / "out")
    assert (tmp_path / "out" / "scores_form.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_chose_different_form_controls_are_compared_with_their_own_and_said(tmp_path: Path) -> None:
    study = read_study([told(tmp_path / "a", "base+prefix"), told(tmp_path / "b", "base", seed=1)])
    cell = study.cells[TASK]["expert:a"]
    assert cell.paired_form is not None
    assert cell.paired_form.difference == pytest.approx((0.5 + 0.75) / 2)
    (note,) = study.notes
    assert "different form controls, base+prefix (a), base (b)" in note
    assert study.tasks[TASK].forms == ["base+prefix", "base"]


def test_of_runs_of_one_seed_the_choice_on_the_most_examples_counts(tmp_path: Path) -> None:
    for number, sizes in enumerate(((20, 10), (10, 20))):
        forms = zip(("base", "base+prefix"), sizes, strict=True)
        runs = [told(tmp_path / f"{number}{form}", form, n=n) for form, n in forms]
        paired = read_study(runs).cells[TASK]["expert:a"].paired_form
        assert paired is not None
        assert paired.difference == (0.75, 0.5)[number]


def test_what_weakens_a_form_control_is_said(tmp_path: Path) -> None:
    tested, without = told(tmp_path / "a", "base", split="test"), run_folder(tmp_path / "b", {"base": BASE}, seed=1)
    assert [note.partition(": ")[2] for note in read_study([tested, without]).notes] == [
        "b chose no form control; that of its seed, or else the mean of all, stands for it.",
        "a chose the form control on the scored split, which favours it.",
    ]
    (note,) = read_study([without]).notes
    assert "no run has form controls" in note


def test_a_seed_without_a_form_control_is_compared_with_the_mean_of_the_others(tmp_path: Path) -> None:
    scores = {"base": BASE, "expert:a": [0.0] * 4}
    runs = [told(tmp_path / "a", "base+prefix"), told(tmp_path / "b", "base", seed=1)]
    study = read_study([*runs, run_folder(tmp_path / "c", scores, seed=2)], ["expert:a - form"])
    cell, form = study.cells[TASK]["expert:a"], study.tasks[TASK].form_mean
    assert form == pytest.approx((0.5 + 0.25) / 2)
    assert cell.paired_form is not None
    assert cell.paired_form.difference == pytest.approx((1 + 1 + 0) / 3 - form)
    assert study.contrasts[0].seeds == 3
    assert "sums: c chose no form control; that of its seed, or else the mean of all, stands for it." in study.notes


def test_draws_of_a_control_are_averaged_as_seeds_are(tmp_path: Path) -> None:
    draws = {"random_1:a": [1.0, 1.0, 1.0, 0.0], "random_2:a": BASE, "reversed:a": BASE}
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, **draws})])
    assert list(study.cells[TASK]) == ["base", "random:a", "reversed:a"]
    assert study.cells[TASK]["random:a"].seeds == {"0.1": 0.75, "0.2": 0.25}
    assert study.cells[TASK]["random:a"].mean == 0.5


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(
        tmp_path / "a",
        {"base": BASE, "prompt": [1.0, 0.0, 1.0, 0.0], "few_shot_3": BASE},
        mixing_weights={TASK: {"prompt": {"math": 0.75}}},
        pass_seconds={TASK: {"prompt": {"fit": 0.0, "pass1": 1.0, "pass2": 8.0}}},
        tokens={TASK: {"prompt": {"prompt": 90, "completion": 30, "fit": 0, "pass1": 1234, "pass2": 120}}},
        confusion={"prompt": Confusion(("math", "other"), ((3, 1), (0, 0)))},
    )
    main([str(run), "--out", str(tmp_path / "out"), "--contrasts", "prompt - base"])
    out = capsys.readouterr().out
    assert "Named after the runs, when their results could be known: prompt - base" in out
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| sums | prompt | 0.0 s, 0 tokens | 1.0 s, 1,234 tokens | 8.0 s, 120 tokens | 12 % |" in text
    assert "|  | 90 | 30 | 0.0 s, 0 tokens | 1.0 s, 1,234 tokens | 8.0 s, 120 tokens |" in text  # beside the score
    assert "| sums | prompt | 0.75 |" in text
    assert "| math | 0.75 | 0.25 | 4 |" in text
    assert "## Shots, sums" in text
    assert "| sums | prompt - base | after the runs | 1 | +25.0 [" in text
    assert text.startswith("- sums: no run has form controls")
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert written["cells"][TASK]["prompt"]["paired"]["difference"] == 0.25
    for name in ("scores.png", "confusion_prompt.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_runs_with_shots_alone_need_no_score_table(tmp_path: Path) -> None:
    study = read_study([run_folder(tmp_path / "a", {"base": BASE, "few_shot_3": BASE})])
    write_study(study, tmp_path / "out")
    assert [title for title, _ in study_tables(study)] == ["Shots, sums: 4 questions; majority class 25.0 %"]
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
