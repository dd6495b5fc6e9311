"""`train.py trainer=ddp` and `trainer=fsdp` as they are typed: one folder, written by the first of two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.processes


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_processes_make_one_run(trainer: str, tmp_path: Path) -> None:
    """Lightning starts the second, which would meet a locked folder if it did not follow."""
    words = [f"trainer={trainer}", "experiment=smoke", "logger=csv", "steps=1", "prompts_per_step=3"]
    words.append("hydra.run.dir=run")
    if trainer == "fsdp":  # the base is scored after training, which takes both processes
        words.append("adapter.parametrization=sigmoid_nuclear")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("divided among processes: 1 + 2.") == 1
    assert "Error" not in done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["command"] == "train"
    (scores,) = results["scores"].values()
    assert sorted(scores) == (["base", "expert"] if trainer == "ddp" else ["base", "expert", "start"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *(".hydra", ".lock", "checkpoints", "expert.safetensors", "learning_curve.png", "metrics.csv", "results.json"),
        *("samples.jsonl", "train.log"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
