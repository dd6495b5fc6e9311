"""The bench that kills sweeps: a killed sweep ends with all results, and a result that is made twice is reported."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.processes

kill_sweep = importlib.import_module("kill_sweep")


@pytest.mark.slow
def test_a_sweep_killed_twice_has_every_result_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the bench adds to it, for its children
    output = tmp_path / "kill_sweep.json"
    assert kill_sweep.main(["--kills", "2", "--jobs", "3", "--output", str(output)]) == 0
    assert "0 results lost or made twice" in capsys.readouterr().out
    row = json.loads(output.read_text())["row"]
    assert (row["results"], row["jobs"]) == (3, 3)
    assert row["kills"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["kill_sweep.json"]


def test_what_is_lost_or_made_twice_is_seen(tmp_path: Path) -> None:
    """Else the bench would pass any sweep."""
    sweep = kill_sweep.KilledSweep(tmp_path, 3)
    for number in range(3):
        run = tmp_path / "sweep" / str(number)
        run.mkdir(parents=True)
        (run / "results.json").write_text("{}")
    sweep._compare([0, 1, 2])
    assert sweep.faults == []
    shutil.copy(tmp_path / "sweep" / "0" / "results.json", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "sweep" / "0" / "results.json")
    (tmp_path / "sweep" / "1" / "results.json").unlink()
    sweep._compare([2])
    assert sweep.faults == ["the result of job 1 is lost", "job 0 was written again", "job 2 began again"]
