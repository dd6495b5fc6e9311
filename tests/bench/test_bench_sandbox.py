"""bench/sandbox.py on few samples: grades are as expected, and a sandbox that does not work is named, not left out."""

from __future__ import annotations

import importlib
import json

import pytest

pytest.importorskip("peft")
bench = importlib.import_module("sandbox")


def test_every_level_is_measured_or_says_why_not(tmp_path, capsys):
    out = tmp_path / "sandbox.json"
    bench.main(["--samples", "8", "--output", str(out)])
    levels = json.loads(out.read_text())["levels"]
    assert [one["level"] for one in levels] == ["bwrap", "unshare", "subprocess"]
    for one in levels:
        assert one.get("unavailable") or (one["as_expected"] == 8 and one["samples_per_second"] > 0)
    assert "samples/s" in capsys.readouterr().out


def test_a_level_that_does_not_work_shows_in_the_table(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no namespaces")

    monkeypatch.setattr(bench, "CodeExecutor", broken)
    assert "not available: no namespaces" in bench.table([bench.measure("bwrap", bench.samples(1), 1, None)])


def test_a_quarter_of_the_samples_is_right_and_none_is_like_another():
    made = bench.samples(8)
    assert [one.reason for one in made].count(None) == 2
    assert len({one.program for one in made}) == len({one.test for one in made}) == 8
