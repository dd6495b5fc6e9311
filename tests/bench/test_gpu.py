"""The GPU bench at tiny size on the CPU, on a machine that lacks what a bare one lacks; what fails is not hidden."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
from conftest import ROOT

pytestmark = pytest.mark.processes

BARE = """
import sys
for name in ("hydra", "omegaconf", "wandb", "datasets", "gguf", "cmaes", "math_verify", "trl", "reasoning_gym"):
    sys.modules[name] = None
sys.path[:0] = ["bench", "."]
import gpu
gpu.main(sys.argv[1:])
"""
TINY = ["--device", "cpu", "--shapes", "tiny"]


def test_every_part_runs_without_the_packages_that_a_bare_machine_lacks(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-c", BARE, *TINY, "--output", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(path.read_text())
    expected = {"parity", "resume", "trainer", "svd tiny", "at best", "step tiny bfloat16"}
    assert set(record["parts"]) == expected
    assert not record["failed"]
    assert not record["left_out"]
    assert len(record["parts"]["parity"]["parity"]) == 3 * 4, "types and modes"
    (seconds,) = record["parts"]["step tiny bfloat16"]["seconds"]
    assert min(value for key, value in seconds.items() if key not in ("step", "score")) > 0


def test_a_part_that_fails_or_is_wrong_is_in_the_record_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(gpu, "parity", broken)
    monkeypatch.setattr(gpu, "resume", lambda bench: [{"type": "x", "ok": False}])
    path = tmp_path / "gpu.json"
    with pytest.raises(SystemExit, match="1"):
        gpu.main([*TINY, "--parts", "parity,resume,trainer", "--output", str(path)])
    record = json.loads(path.read_text())
    assert "illegal memory access" in record["failed"]["parity"]
    assert record["wrong"] == ["resume: {'type': 'x', 'ok': False}"]
    assert "trainer" in record["parts"], "the others go on"
    assert "parity: FAILED" in capsys.readouterr().out


def test_what_would_begin_too_late_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 300))
    monkeypatch.setattr("gpu.time.perf_counter", lambda: next(clock))
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "parity", lambda bench: [{"type": "x"}])
    gpu.main([*TINY, "--parts", "parity,resume,trainer", "--output", str(path)])
    assert json.loads(path.read_text())["left_out"] == ["resume", "trainer"]
