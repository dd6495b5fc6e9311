"""Ways to train against each other, over runs with several seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import BASE, run_folder
from scipy import stats

from t2.evaluation.compare import differences, forgetting_differences, main
from t2.evaluation.compare_figures import learning_curve
from t2.evaluation.compare_groups import read_groups
from t2.evaluation.results import HeldOut
from t2.evaluation.statistics import Paired

RIGHT, HALF = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]


def runs(folder: Path, name: str, *rows: list[float], **more: Any) -> list[Path]:
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


def test_runs_are_paired_by_their_seed_in_whatever_order_they_are_given(tmp_path) -> None:
    a, b = runs(tmp_path, "a", RIGHT, HALF), runs(tmp_path, "b", HALF, BASE)
    (right,), (turned,) = (differences(read_groups({"a": a, "b": other})) for other in (b, b[::-1]))
    assert turned == right
    unlike = runs(tmp_path / "c", "c", HALF, BASE, BASE)[1:]  # seeds 1 and 2: paired as given
    assert read_groups({"a": a, "c": unlike[::-1]})[1].scores == [BASE, BASE]


def test_runs_that_are_not_paired_by_their_seed_are_said_to_be_so(tmp_path, capsys) -> None:
    a, b = runs(tmp_path, "a", RIGHT, HALF), runs(tmp_path, "b", HALF, BASE, BASE)
    for other, said in ((b[1::-1], False), (b[1:], True)):
        main([argument("svf", a), argument("lora", other), "--out", str(tmp_path / "out")])
        for text in (capsys.readouterr().out, (tmp_path / "out" / "compare.md").read_text()):
            assert ("not by seed, since not all have the same seeds once each (svf: 0, 1; lora: 1, 2)" in text) is said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["svf=a0", "svf=a1"], "'svf' is given twice"),
        (["svf=a0,a1", "--contrast", "svf - nonsense"], "A contrast names 'nonsense'; allowed: svf"),
        (["svf=a0,a1,c0"], "c0 has trained 8 numbers, and the run of svf before it 7"),
    ],
)
def test_nothing_that_is_given_is_left_out_in_silence(tmp_path, monkeypatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    runs(Path(), "a", RIGHT, HALF)
    runs(Path(), "c", HALF, trainable_parameters=8)
    with pytest.raises(SystemExit, match=message):
        main(words)


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
    with pytest.raises(ValueError, match="b0 is given twice"):
        read_groups({"a": a, "b": b * 2})
    with pytest.raises(ValueError, match="has not scored experts: it has base, expert"):
        read_groups({"a": a}, system="experts")
    with pytest.raises(ValueError, match="names 'lora'; allowed: a"):
        differences(read_groups({"a": a}), ["a - lora"])
    with pytest.raises(SystemExit, match="'a' is no group"):
        main(["a"])
    (a[0] / "samples.jsonl").unlink()  # half written
    with pytest.raises(SystemExit, match=r"holds no samples\.jsonl"):
        main([argument("a", a)])


# Forgetting, curves and figures


def forgotten(increase: float, texts: int = 2) -> dict[str, dict[str, HeldOut]]:
    loss = HeldOut(texts=texts, tokens=8, loss=3.0 + increase, increase=Paired(increase, (0.0, 1.0), 0.5), kl=0.1)
    return {"wikipedia": {"base": HeldOut(texts=2, tokens=8, loss=3.0, increase=None, kl=None), "expert": loss}}


def test_forgetting_is_contrasted_by_a_paired_t_test_over_runs(tmp_path, capsys) -> None:
    named = {
        name: [
            run_folder(tmp_path / f"{name}{seed}", {"base": BASE, "expert": HALF}, seed=seed, held_out=forgotten(one))
            for seed, one in enumerate(values)
        ]
        for name, values in {"few": (0.5, 0.3, 0.4), "all": (0.1, 0.0, 0.2), "one": (0.2, 0.1, 0.9)}.items()
    }
    groups = read_groups(named)
    first, second = forgetting_differences(groups, ["few - all", "few - one"])
    expected = stats.ttest_rel((0.5, 0.3, 0.4), (0.1, 0.0, 0.2))
    assert first.paired.difference == pytest.approx(0.3)
    assert first.paired.p_value == pytest.approx(expected.pvalue)
    assert first.paired.ci95 == pytest.approx(tuple(expected.confidence_interval()))
    assert (first.p_holm, second.p_holm) == (2 * first.paired.p_value, second.paired.p_value)
    main([argument(name, paths) for name, paths in named.items()] + ["--contrast", "few - all"])
    assert "few - all    +0.3000" in capsys.readouterr().out
    single = [replace(group, forgetting=group.forgetting[:1]) for group in groups]
    assert forgetting_differences(single) == []


def test_forgetting_of_other_texts_is_not_compared_and_this_is_said(tmp_path, capsys, caplog) -> None:
    def read(name: str, *texts: int) -> list[Path]:
        return [
            run_folder(tmp_path / f"{name}{n}", {"base": BASE, "expert": HALF}, seed=n, held_out=forgotten(0.1 * n, of))
            for n, of in enumerate(texts)
        ]

    a, b, mixed = read("a", 2, 2), read("b", 50, 50), read("mixed", 2, 50)
    main([argument("a", a), argument("b", b)])
    shown = capsys.readouterr().out
    assert "different texts (a: wikipedia: 2 texts of 8 tokens; b: wikipedia: 50 texts of 8 tokens)" in shown
    assert "nats a token" not in shown
    (group,) = read_groups({"mixed": mixed})
    assert group.forgetting == []
    assert "mixed: runs read different held-out texts" in caplog.text


def training_run(folder: Path, scores: dict[int, float]) -> Path:
    folder.mkdir(parents=True)
    lines = [f"{step},{score}" for step, score in scores.items()]
    (folder / "metrics.csv").write_text("\n".join(["step,val/score", *lines]) + "\n")
    return folder


def test_forgetting_and_training_runs_are_read_where_there_are_any(tmp_path) -> None:
    trained = [training_run(tmp_path / f"train{seed}", {0: 0.2}) for seed in (0, 1)]
    a = [
        run_folder(
            tmp_path / f"a{seed}", {"base": BASE, "expert": RIGHT}, seed=seed,
            held_out=forgotten(0.1 + seed), expert=str(trained[seed]),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    b = runs(tmp_path, "b", HALF, HALF, expert="gone/expert.safetensors")
    first, second = read_groups({"a": a, "b": b})
    assert first.forgetting == pytest.approx([0.1, 1.1])
    assert first.trained == trained
    assert (first.gains, first.gain.difference) == ([0.75, 0.75], 0.75)
    assert (second.forgetting, second.trained) == ([], [])
    (mixed,) = read_groups({"mixed": [a[0], b[1]]})  # one run alone has read the texts: no mean of both
    assert mixed.forgetting == []


def test_a_curve_has_the_steps_that_all_runs_validated(tmp_path) -> None:
    found = [
        training_run(tmp_path / "a", {0: 0.1, 5: 0.4, 10: 0.5}),
        training_run(tmp_path / "b", {0: 0.3, 10: 0.7}),
    ]
    assert learning_curve(found) == {0: [0.1, 0.3], 10: [0.5, 0.7]}
    assert learning_curve([]) == {}


@pytest.mark.parametrize("measured", [True, False])
def test_tables_and_the_figures_that_can_be_drawn_are_written(tmp_path, capsys, measured) -> None:
    more = {}
    if measured:
        more = {"held_out": forgotten(0.25), "expert": str(training_run(tmp_path / "t", {0: 0.1, 5: 0.4}))}
    a, b = (runs(tmp_path, name, RIGHT, HALF, **more) for name in "ab")
    main([argument("svf", a), argument("lora", b), "--out", str(tmp_path / "out")])
    drawn = ["forgetting_by_gain.png", "gain_by_numbers.png", "learning_curves.png"]
    figures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert figures == (drawn if measured else drawn[1:2])
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    table = (tmp_path / "out" / "compare.md").read_text()
    assert ("+0.2500, +0.2500" in table) is measured
    assert all(name in capsys.readouterr().out for name in figures[:1])
