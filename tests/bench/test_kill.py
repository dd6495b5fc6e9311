"""The bench that kills runs: what is killed and resumed equals the undisturbed run, and a difference is reported."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from training_run import fit, flat, make_module

from t2.evaluation.results import Results
from t2.training.checkpoint_file import LAST_CHECKPOINT

pytestmark = pytest.mark.processes

kill = importlib.import_module("kill")


@pytest.mark.slow
def test_two_killed_runs_end_as_the_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the bench adds to it, for its children
    assert kill.main(["--kills", "2", "--steps", "5", "--output", str(tmp_path / "kill.json")]) == 0
    assert "2 of 2 ended with the z of the undisturbed run" in capsys.readouterr().out
    kills = json.loads((tmp_path / "kill.json").read_text())["kills"]
    assert [(one["kind"], one["differences"]) for one in kills] == [("time", []), ("write", [])]
    assert [path.name for path in tmp_path.iterdir()] == ["kill.json"]


def test_another_seed_is_seen_as_a_difference(tmp_path: Path) -> None:
    """Else the bench would call any two runs equal, of a model that learns nothing, say."""
    module = make_module()
    fit(module, tmp_path / "whole", steps=2)
    assert (flat(module) != 1).any()
    written = Results(
        command="train", base_model="m", adapter=None, task="t", strategy="fixed", trainable_parameters=1, scores={},
        paired={}, seconds={}, seed=0,
    ).write(tmp_path / "whole")  # fmt: skip
    assert written.seed == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    assert kill.differences(tmp_path / "run", tmp_path / "whole") == []
    state = torch.load(tmp_path / "run" / LAST_CHECKPOINT, weights_only=True)
    next(iter(state["state_dict"].values()))[0] += 1e-6
    torch.save(state, tmp_path / "run" / LAST_CHECKPOINT)
    assert kill.differences(tmp_path / "run", tmp_path / "whole") == ["multipliers"]
