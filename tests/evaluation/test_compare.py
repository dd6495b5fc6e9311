"""Ways to train against each other, over runs with several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import BASE, run_folder

from t2.evaluation.compare import differences, main, read_groups

RIGHT, HALF = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]


def runs(folder: Path, name: str, *rows: list[float], **more: str) -> list[Path]:
    return [
        run_folder(folder / f"{name}{seed}", {"base": BASE, "expert": row}, seed=seed, **more)
        for seed, row in enumerate(rows)
    ]


def argument(name: str, paths: list[Path]) -> str:
    return f"{name}={','.join(map(str, paths))}"


def test_a_difference_is_that_of_the_means_and_every_pair_is_a_contrast(tmp_path) -> None:
    named = {
        name: runs(tmp_path, name, *rows)
        for name, rows in {"a": (RIGHT, HALF), "b": (HALF, HALF), "c": (BASE, BASE)}.items()
    }
    groups = read_groups(named)
    assert groups[0].means == [1.0, 0.5]
    found = {(one.first, one.second): one for one in differences(groups)}
    assert {pair: one.paired.difference for pair, one in found.items()} == {
        ("a", "b"): 0.25,
        ("a", "c"): 0.5,
        ("b", "c"): 0.25,
    }
    assert all(one.p_holm >= one.paired.p_value for one in found.values())
    (asked,) = differences(groups, ["c - a"])
    assert (asked.paired.difference, asked.p_holm) == (-0.5, asked.paired.p_value)


def test_it_prints_scores_by_run_and_contrasts(tmp_path, capsys) -> None:
    main([argument("svf", runs(tmp_path, "a", RIGHT, HALF)), argument("lora", runs(tmp_path, "b", HALF, HALF))])
    shown = capsys.readouterr().out
    assert "100.0, 50.0" in shown
    assert "svf - lora" in shown
    assert "+25.0" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": "abcx"}, "b0 has other questions than .*a0"),
        ({"task": "other"}, "b0 has other questions than .*a0"),
    ],
)
def test_other_questions_are_refused_with_which(tmp_path, change, message) -> None:
    named = {"a": runs(tmp_path, "a", RIGHT), "b": runs(tmp_path, "b", HALF, **change)}
    with pytest.raises(ValueError, match=message):
        read_groups(named)


def test_what_cannot_be_compared_is_refused(tmp_path) -> None:
    a, b = runs(tmp_path, "a", RIGHT, HALF), runs(tmp_path, "b", HALF)
    with pytest.raises(ValueError, match=r"a has 2, b has 1\. Give each name as many"):
        read_groups({"a": a, "b": b})
    with pytest.raises(ValueError, match="has not scored experts: it has base, expert"):
        read_groups({"a": a}, system="experts")
    with pytest.raises(ValueError, match="names 'lora'; allowed: a"):
        differences(read_groups({"a": a}), ["a - lora"])
    with pytest.raises(SystemExit, match="'a' is no group"):
        main(["a"])
    (a[0] / "samples.jsonl").unlink()  # half written
    with pytest.raises(SystemExit, match=r"holds no samples\.jsonl"):
        main([argument("a", a)])
