"""Which job goes on in a folder, and the answer to Slurm's signal, with a scontrol that a test writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from t2.run.results import RESULTS_FILE
from t2.run.slurm import SAVED, Record, in_step, requeued_on_signal, slurm_job

Attempt = Callable[[int], None]


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Be job 7, which Slurm has started so many times again."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def be(restarts: int) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
        if restarts:
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))

    return be


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol that writes what it is asked into a file, and refuses where there is a file `refuse`."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    refuse = f'[ ! -e {tmp_path}/refuse ] || {{ echo "Job is disabled" >&2; exit 1; }}'
    script.write_text(f'#!/bin/sh\n{refuse}\necho "$@" >> {tmp_path}/asked\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return tmp_path / "asked"


def save(run: Path, content: str) -> None:
    (run / SAVED).parent.mkdir(parents=True, exist_ok=True)
    (run / SAVED).write_text(content)


def told_to_stop(run: Path, *, saves: str | None = None, limit: int | None = None, first: bool = True) -> None:
    """One attempt of a job, which Slurm tells to stop."""
    with requeued_on_signal(run, first=first, limit=limit):
        if saves is not None:
            save(run, saves)
        os.kill(os.getpid(), signal.SIGUSR1)


def test_an_array_task_has_a_number_of_its_own(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM_JOB_ID of one of an array's tasks is the array's, and a requeue of that would stop all of them."""
    attempt(0)
    assert (slurm_job(), in_step()) == ("7", False)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert (slurm_job(), in_step()) == ("7_3", True)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert slurm_job() is None


def test_the_same_job_started_again_goes_on_and_another_does_not(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(0)
    Record.new(tmp_path, "7").write(tmp_path)
    assert Record.of_requeued(tmp_path) is None  # two commands of one sbatch file
    attempt(1)
    assert Record.of_requeued(tmp_path) == Record.new(tmp_path, "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "elsewhere")
    assert Record.of_requeued(tmp_path) is None
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert Record.of_requeued(tmp_path) is None


def test_a_job_is_finished_by_results_of_its_own(attempt: Attempt, tmp_path: Path) -> None:
    """Not by those of the run that it goes on with (resume=RUN steps=50)."""
    attempt(1)
    (tmp_path / RESULTS_FILE).write_text("{}")
    record = Record.new(tmp_path, "7")
    assert not record.is_finished(tmp_path)
    (tmp_path / RESULTS_FILE).write_text("{ }")
    assert record.is_finished(tmp_path)


def test_a_signal_requeues_the_job_once_and_is_ignored_elsewhere(
    attempt: Attempt, scontrol: Path, tmp_path: Path
) -> None:
    attempt(0)
    before = signal.getsignal(signal.SIGUSR1)
    told_to_stop(tmp_path, first=False)
    assert not scontrol.exists()
    with requeued_on_signal(tmp_path, first=True, limit=None):
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 7\n"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_job_that_saves_nothing_twice_in_a_row_is_not_requeued(
    attempt: Attempt, scontrol: Path, tmp_path: Path
) -> None:
    attempt(0)
    told_to_stop(tmp_path)
    attempt(1)
    told_to_stop(tmp_path, saves="step 1")
    told_to_stop(tmp_path)
    with pytest.raises(SystemExit, match="nothing was saved in that time, as in the attempt before"):
        told_to_stop(tmp_path)
    assert scontrol.read_text().count("requeue") == 3


def test_what_slurm_refuses_is_said_in_its_words_and_the_run_goes_on(
    attempt: Attempt, scontrol: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt(0)
    (tmp_path / "refuse").touch()
    told_to_stop(tmp_path, saves="step 1")
    assert f"at its limit: Job is disabled. Go on with: python train.py resume={tmp_path}" in caplog.text


def test_requeues_have_a_limit(attempt: Attempt, scontrol: Path, tmp_path: Path) -> None:
    attempt(1)
    told_to_stop(tmp_path, saves="1", limit=1)
    with pytest.raises(SystemExit, match=r"requeued 1 times, which is hydra.launcher.max_num_timeout\. Go on with"):
        told_to_stop(tmp_path, saves="12", limit=1)


def test_an_error_of_a_job_that_is_being_stopped_is_no_failure(
    attempt: Attempt, scontrol: Path, tmp_path: Path
) -> None:
    """W&B's process, which Slurm has killed first, is gone; a failure would be taken for the job's result."""
    attempt(0)
    squeue = scontrol.parent / "bin" / "squeue"
    for state, raised in (("RUNNING", ConnectionResetError), ("COMPLETING", SystemExit)):
        squeue.write_text(f"#!/bin/sh\necho {state}\n")
        squeue.chmod(0o755)
        with pytest.raises(raised), requeued_on_signal(tmp_path, first=True, limit=None):
            raise ConnectionResetError("Connection lost")
