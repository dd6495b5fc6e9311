"""What the scripts write of a task that grades, groups and documents, as a user runs them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2.experts.expert import EXPERT_FILE, Expert

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
GRADED = ("~task=chain_sum", "+task._target_=graded_task.GradedLetters", "+task.name=graded")


@pytest.fixture
def evaluate(run_script: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run evaluate.py on a tiny model; returns results.json."""

    def run(*arguments: str) -> dict[str, Any]:
        options = ("base_model=tiny", "limit=4", "sampling.max_new_tokens=3", f"hydra.run.dir={tmp_path / 'run'}")
        run_script("evaluate", *options, "controls=null", *arguments)
        results: dict[str, Any] = json.loads((tmp_path / "run" / "results.json").read_text())
        return results

    return run


def test_reasons_groups_and_data_are_in_the_results(evaluate, tmp_path, capsys) -> None:
    results = evaluate(*GRADED)
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    reasons = [line["reason"] for line in lines if line["reason"]]
    assert reasons
    assert results["reasons"] == {"graded": {"base": {reason: reasons.count(reason) for reason in reasons}}}
    assert {value: of["n"] for value, of in results["by_group"]["graded"]["base"]["level"].items()} == {
        "0": 2, "1": 1, "2": 1,
    }  # fmt: skip
    assert results["by_group"]["graded"]["base"]["level"]["2"]["stderr"] is None
    assert results["data"] == {"graded": {"protocol": "letters", "splits": {"test": {"rows": 12, "share": None}}}}
    assert "pass_at_k" not in results
    assert [line["id"] for line in lines] == [f"Letters/{number}" for number in range(4)]
    shown = capsys.readouterr().out
    assert "Completions by reason:" in shown
    assert "Scores by group:" in shown


def test_several_samples_give_pass_at_k(evaluate, tmp_path) -> None:
    sampling = ("sampling.samples=5", "sampling.temperature=1.0", "sampling.max_new_tokens=1")
    results = evaluate(*GRADED, *sampling, "score_workers=3")
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == [0, 1, 2, 3, 4] * 4
    found = results["pass_at_k"]["graded"]["base"]
    assert found.keys() == {"1", "5"}
    right = [[line["score"] == 1.0 for line in lines[place : place + 5]] for place in range(0, 20, 5)]
    assert any(map(any, right))  # else the test could hardly fail
    assert found["1"] == pytest.approx(sum(map(sum, right)) / 20)
    assert found["5"] == pytest.approx(sum(map(any, right)) / 4)
    assert results["scores"]["graded"]["base"]["n"] == 4


def test_a_plain_task_has_no_reasons_or_groups(evaluate) -> None:
    results = evaluate("task=gcd")
    assert not results.keys() & {"reasons", "by_group", "pass_at_k"}


def test_training_says_which_data_it_was_on(run_script, tmp_path) -> None:
    run_script("train", "experiment=smoke", "steps=1", *GRADED, f"hydra.run.dir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["graded"]["protocol"] == "letters"


def test_training_says_which_step_was_best(run_script, tmp_path) -> None:
    """With so large steps this model is not best at the end."""
    curve = ("steps=2", "callbacks.validation.every=1", "optimizer.lr=0.5", "logger=csv")
    run_script("train", "experiment=smoke", *GRADED, *curve, f"hydra.run.dir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["best_step"] == Expert.load(tmp_path / EXPERT_FILE).metadata.step
    rows = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    scores = {int(row["step"]): float(row["val/score"]) for row in rows if row["val/score"]}
    assert results["best_step"] == max(scores, key=lambda step: (scores[step], -step))
    assert results["best_step"] < max(scores) == 2
