"""bench/grading.py on few answers: its expectations hold, and what it writes can be read."""

from __future__ import annotations

import importlib
import json

import pytest

pytest.importorskip("peft")
bench = importlib.import_module("grading")


def test_every_verdict_is_as_the_bench_expects(tmp_path, capsys):
    out = tmp_path / "grading.json"
    bench.main(["--answers", "20", "--hostile", "1", "--output", str(out)])
    result = json.loads(out.read_text())
    assert result["as_expected"] == result["answers"] == 20
    assert 0 < result["slowest"]["hostile"] <= result["seconds"]["grade"]
    assert "20 of 20 verdicts as expected" in capsys.readouterr().out


def test_no_two_answers_are_alike():
    made = bench.answers(1000, 10)
    assert len({(one.gold, one.text) for one in made}) == len(made) == 1000
    assert sum(one.hostile for one in made) == 10


def test_more_hostile_answers_than_answers_are_refused():
    with pytest.raises(SystemExit, match="0 to --answers"):
        bench.main(["--answers", "2", "--hostile", "3"])
