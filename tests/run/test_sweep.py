"""Jobs of a sweep end by themselves, those that failed are listed, and finished ones are not run again."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from trivial_job import Script, kill_sweep

from t2.run.folder_lock import folder_lock
from t2.run.sweep import Job, Sweep, again, read_jobs, report_sweep


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.chdir(tmp_path)
    return Script(tmp_path, monkeypatch)


def meeting(cfg: DictConfig) -> Any:
    """Begins, and waits until two jobs have; in another process than the test, so that it can be pickled."""
    result = kill_sweep.job(cfg)
    until = time.monotonic() + 60
    while len(Path(cfg.begun).read_text().split()) < 2:
        assert time.monotonic() < until, "the jobs do not run at once"
        time.sleep(0.01)
    if cfg.number == 1:
        raise ValueError("number is 1; allowed: another.")
    return result


def failing(cfg: DictConfig) -> Any:
    """Three ways to fail; job 4 is stopped from outside."""
    if cfg.number == 1:
        raise ValueError("number is 1; allowed: another.")
    if cfg.number == 2:
        raise ZeroDivisionError("not the user's")
    if cfg.number == 4:
        raise KeyboardInterrupt
    return kill_sweep.job(cfg)


def test_a_failed_job_stops_no_other_and_is_listed_with_its_command(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("-m", "number=0,1,2,3", "hydra.sweep.dir=s", body=failing) == 1
    assert script.begun == [0, 3]
    assert [job.state for job in read_jobs(Path("s"))] == ["finished", "failed", "failed", "finished"]
    out = capsys.readouterr().out
    assert "Sweep s: 2 finished, 0 skipped, 2 failed." in out
    assert "ZeroDivisionError: not the user's" in out
    listed = out.partition("Sweep s:")[2]
    assert "number is 1; allowed: another." in listed
    (command,) = (line for line in listed.splitlines() if line.startswith("Again:") and "number=1" in line)
    words = shlex.split(command)[3:]
    assert script(*words) == 0  # by itself, with what failed mended
    assert script.begun == [1]
    assert (Path("s") / "1" / "results.json").is_file()


@pytest.mark.processes
def test_jobs_side_by_side(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "number=0,1", "hydra.sweep.dir=s", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert script(*arguments, body=meeting) == 1
    assert sorted(script.begun) == [0, 1]
    assert "Sweep s: 1 finished, 0 skipped, 1 failed." in capsys.readouterr().out


def test_a_sweep_started_again_runs_what_has_no_result(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "number=0,1,2", "hydra.sweep.dir=s")
    assert script(*arguments, body=failing) == 1
    before = (Path("s") / "0" / "results.json").stat().st_ino
    capsys.readouterr()
    assert script(*arguments, "skip_finished=true") == 0
    assert script.begun == [1, 2]
    assert (Path("s") / "0" / "results.json").stat().st_ino == before
    assert [(job.state, job.headline) for job in read_jobs(Path("s"))] == [
        ("skipped", 0.0), ("finished", 0.01), ("finished", 0.02),
    ]  # fmt: skip
    assert "2 finished, 1 skipped, 0 failed" in capsys.readouterr().out


def test_another_configuration_under_the_same_number_is_refused(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("-m", "number=0,1", "hydra.sweep.dir=s") == 0
    before = (Path("s") / "0" / ".hydra" / "config.yaml").read_text()
    assert script("-m", "number=5,1", "hydra.sweep.dir=s", "skip_finished=true") == 1
    assert script.begun == []
    out = capsys.readouterr().out
    assert "number: was 0, now 5" in out
    assert "Again:" not in out  # it would be refused again
    assert (Path("s") / "0" / ".hydra" / "config.yaml").read_text() == before
    assert script("-m", "number=0,1", "hydra.sweep.dir=s") == 1  # nor is it written over without the key
    assert script.begun == []


def test_a_sweep_that_is_stopped_says_how_to_go_on(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        script("-m", "number=0,4,3", "hydra.sweep.dir=s", body=failing)
    out = capsys.readouterr().out
    assert "1 finished, 0 skipped, 1 failed" in out
    assert "killed, or lost" in out
    assert "the same command line, hydra.sweep.dir=s skip_finished=true" in out


def test_folders_are_named_by_script_and_moment_and_never_shared(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still: two runs of one second, and a sweep, have a folder each."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)
    assert [script("hydra.job.name=job"), script("hydra.job.name=job"), script("-m", "hydra.job.name=job")] == [0] * 3
    found = sorted(str(path.parent) for path in Path("outputs").rglob("results.json"))
    assert found == [
        *("outputs/job/2026-01-02/03-04-05", "outputs/job/2026-01-02/03-04-05-2"),
        "outputs/job/multirun/2026-01-02/03-04-05/0",
    ]


def test_the_command_of_a_job_keeps_what_the_sweep_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "can_skip", True)
    job = Job(3, "/elsewhere/lr=1,seed=2", ("experiment=x", 'prompt="a b"', "seed=1"))
    given = ["--config-dir", "mine", "experiment=x", "hydra.searchpath=[file://a]", "hydra.sweep.dir=s",
             "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra/launcher=joblib"]  # fmt: skip
    assert again("train", job, given) == (
        "python train.py --config-dir mine experiment=x 'prompt=\"a b\"' seed=1 'hydra.searchpath=[file://a]' "
        "'hydra.run.dir=\"/elsewhere/lr=1,seed=2\"' hydra.mode=RUN skip_finished=true"
    )
    assert "hydra.mode" not in again("train", job, ["-m", *given])


def test_a_stored_study_does_not_start_again_in_its_folder(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials have new numbers, and would meet the folders of old ones."""
    arguments = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.storage=sqlite:///db/x.db", "number=1,2")
    assert script(*arguments, "hydra.sweep.dir=s", "skip_finished=true") == 1
    assert "the study knows the trials" in capsys.readouterr().err
    assert script(*arguments, "hydra.sweep.dir=s", "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=x") == 0
    assert Path("db/x.db").is_file()
    assert len(script.begun) == 2


def test_a_job_that_outlives_the_launcher_is_not_called_lost(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher of jobs on other machines may give up before they do."""
    assert script("-m", "number=0,1", "hydra.sweep.dir=s", body=failing) == 1
    for job in read_jobs(Path("s")):
        replace(job, state="started", error=None).write(Path("s"))
    Sweep.current = Path("s")
    capsys.readouterr()
    with folder_lock(Path("s") / "0"):
        assert not report_sweep("job", ["-m"], complete=True)
    first, second = capsys.readouterr().out.partition("#1")[::2]
    assert "It still runs." in first
    assert "Again:" not in first
    assert "killed, or lost" in second
