"""Seconds, versions and the commit of a run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from t2.run.phases import Phases
from t2.run.results import git_commit, versions


def test_phases_add_up_and_steps_start_afresh() -> None:
    phases = Phases()
    for _ in range(2):
        phases.start_step()
        with phases("rollout"):
            time.sleep(0.01)
    assert phases.total_seconds["rollout"] >= 0.02
    assert 0.01 <= phases.step_seconds["rollout"] < phases.total_seconds["rollout"]
    phases.add({"rollout": 5.0, "svd": 1.0})
    assert phases.total_seconds["rollout"] > 5.0
    assert phases.total_seconds["svd"] == 1.0


def test_a_phase_that_fails_is_charged_too() -> None:
    phases = Phases()
    with pytest.raises(RuntimeError), phases("update"):
        raise RuntimeError
    assert "update" in phases.total_seconds


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.run.results.PACKAGES", ("torch", "no-such-package"))
    assert versions().keys() == {"python", "t2", "torch"}


def test_the_commit_says_when_files_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    clean = git_commit(tmp_path)
    assert clean is not None
    assert "+" not in clean
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{clean}+changes"
