"""Contrasts over joined runs: rows of one seed are paired, and a family that was changed is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_files import PAIR

from t2.evaluation.joined_contrasts import join_contrasts
from t2.evaluation.joining import join_runs
from t2.evaluation.results import Contrasted
from t2.evaluation.statistics import compare_runs, holm
from tests.evaluation.run_folders import BASE, TASK, run_folder

ALL, HALF, NONE = [1.0] * 4, [1.0, 1.0, 0.0, 0.0], [0.0] * 4


def named(*contrasts: str) -> list[Contrasted]:
    return [Contrasted(text, TASK, *text.split(" - "), PAIR, 1.0) for text in contrasts]


def test_rows_of_one_seed_are_paired_and_a_single_row_stands_for_all(tmp_path: Path) -> None:
    one = run_folder(
        tmp_path / "0", {"base": BASE, "fs": ALL, "other": HALF, "single": HALF}, contrasts=named("fs - base")
    )
    two = run_folder(tmp_path / "1", {"base": BASE, "fs": HALF, "other": NONE}, seed=1, contrasts=named("fs - base"))
    joined = join_runs([one, two])
    found, notes = join_contrasts(joined, ["fs - other", "fs - single", "single - fs"])
    assert [(of.contrast, of.seeds, of.paired.difference, of.named) for of in found] == [
        ("fs - base", 2, 0.5, "by every run"),
        ("fs - other", 2, 0.5, "after the runs"),
        ("fs - single", 2, 0.25, "after the runs"),
        ("single - fs", 2, -0.25, "after the runs"),
    ]
    assert found[1].paired == compare_runs([ALL, HALF], [HALF, NONE])  # by seed: crossed, the interval is another
    assert [of.p_holm for of in found] == holm([of.paired.p_value for of in found])
    (note,) = notes
    assert note.startswith("Named after the runs, when their results could be known: fs - other; fs - single")


def test_runs_that_named_other_families_are_told_apart(tmp_path: Path) -> None:
    scores = {"base": BASE, "fs": ALL}
    families = [named("fs - base"), named("base - fs", "fs - base"), None]
    runs = [run_folder(tmp_path / str(i), scores, seed=i, contrasts=of) for i, of in enumerate(families)]
    found, notes = join_contrasts(join_runs(runs))
    assert [(of.contrast, of.named) for of in found] == [("fs - base", "by 0, 1"), ("base - fs", "by 1")]
    (note,) = notes
    assert "different families of contrasts (0: fs - base; 1: base - fs, fs - base; 2: none)" in note
    assert join_contrasts(join_runs(runs[:1]))[1] == []


def test_a_contrast_is_on_the_tasks_that_have_both_systems(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "0", {"base": BASE, "fs": ALL})
    two = run_folder(tmp_path / "1", {"base": BASE}, task="gcd")
    found, notes = join_contrasts(join_runs([one, two]), ["fs - base"])
    assert [of.task for of in found] == [TASK]
    assert "fs - base: not on gcd, where one of the two was not scored." in notes


def test_systems_without_a_question_or_a_seed_in_common_are_refused(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "0", {"base": BASE, "a": ALL})
    two = run_folder(tmp_path / "1", {"base": BASE, "b": ALL}, task="gcd")
    joined = join_runs([one, two])
    with pytest.raises(ValueError, match="no task has both systems, so that they answered no question in common"):
        join_contrasts(joined, ["a - b"])
    with pytest.raises(
        ValueError, match=r"names 'basis', which no run has scored; there are base, a, b\. Did you mean"
    ):
        join_contrasts(joined, ["a - basis"])
    apart = [
        run_folder(tmp_path / f"s{seed}", {"base": BASE, "ab"[seed > 1]: [float(seed % 2)] * 4}, seed=seed)
        for seed in range(4)
    ]
    with pytest.raises(ValueError, match="a ran on sums with the seeds 0, 1, and b with 2, 3"):
        join_contrasts(join_runs(apart), ["a - b"])


def test_systems_of_one_run_on_different_questions_are_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "0", {"base": BASE, "a": ALL})
    lines = (run / "samples.jsonl").read_text().splitlines()
    (run / "samples.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="0: a has other examples of sums than the systems before it"):
        join_runs([run])


FITTED = {"base": BASE, "few_shot#1": [1.0, 1.0, 1.0, 1.0], "few_shot#2": [0.0, 0.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("contrast", "difference"),
    [("few_shot#1 - few_shot#2", 1.0), ("few_shot#1 - base", 0.75), ("few_shot - base", 0.25)],
)
def test_a_contrast_with_a_number_is_of_that_draw_alone(contrast, difference, tmp_path):
    run_folder(tmp_path / "run", FITTED)
    (one,), _ = join_contrasts(join_runs([tmp_path / "run"]), [contrast])
    assert one.paired.difference == difference
