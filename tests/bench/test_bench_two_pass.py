"""bench/two_pass.py on the tiny model: complete reports of all three measurements."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
bench = importlib.import_module("two_pass")

TINY = ["--model", "tiny", "--batches", "3,5", "--new-tokens", "3", "--repeats", "2", "--batch-rows", "4"]


def report(path: Path, *more: str) -> dict:
    bench.main([*TINY, *more, "--output", str(path)])
    return json.loads(path.read_text())


def test_every_batch_and_number_of_mixtures_is_measured_in_every_way(tmp_path):
    found = report(tmp_path / "ways.json", "--distinct", "1,4")
    assert [(row["batch"], row["distinct"]) for row in found["cells"]] == [(3, 1), (3, 3), (5, 1), (5, 4)]
    for row in found["cells"]:
        assert {way: len(seconds) for way, seconds in row["seconds"].items()} == dict.fromkeys(bench.WAYS, 2)
        assert row["auto_to_better"] > 0
    assert len(bench.table(found).splitlines()) == 5


def test_auto_is_compared_with_the_better_of_each_round():
    seconds = {"merged": [4.0, 2.0, 18.0], "per_example": [1.0, 8.0, 9.0]}
    assert bench.auto_to_better(seconds, distinct=1) == 2.0
    assert bench.auto_to_better(seconds, distinct=3) == 1.0


def test_both_passes_are_measured(tmp_path):
    found = report(tmp_path / "pass1.json", "--pass1")
    assert [row["batch"] for row in found["pass1"]] == [3, 5]
    for row in found["pass1"]:
        assert min(*row["seconds"]["pass1"], *row["seconds"]["pass2"], row["pass1_to_pass2"]) > 0


def test_one_prints_memory_as_the_last_line(capsys):
    bench.main([*TINY, "--pass2", "merged", "--one", "100"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < found["held_bytes"] <= found["peak_bytes"]


def test_no_prompts_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main([*TINY, "--batches", "0"])
    assert "allowed: 1 or more" in capsys.readouterr().err


def test_the_memory_of_few_and_many_is_compared_way_by_way(monkeypatch, capsys, tmp_path):
    def measured(command, **options):
        arguments = command[2:]
        way, number = (arguments[arguments.index(name) + 1] for name in ("--pass2", "--one"))
        peak = {"merged": 3, "per_example": 2}[way] * 10**6 * int(number)
        return SimpleNamespace(stdout=json.dumps({"held_bytes": 1, "peak_bytes": peak}) + "\n")

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=measured, PIPE=None))
    bench.main(["--memory", "--model", "tiny", "--output", str(tmp_path / "memory.json")])
    merged, per_example = capsys.readouterr().out.splitlines()
    assert per_example == "per_example: peak of 100 examples 200 MB, 1000 examples 2,000 MB, ratio 10.000"
    assert merged.startswith("merged: peak of 100 examples 300 MB")
    assert [row["pass2"] for row in json.loads((tmp_path / "memory.json").read_text())["memory"]] == [
        "merged",
        "per_example",
    ]
