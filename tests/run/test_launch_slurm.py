"""What is refused before a sweep goes to Slurm, and what is said of jobs that failed. On a real one: tests/slurm."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from t2.run import launch_slurm
from t2.run.launch_slurm import (
    JobFailed,
    SlurmTask,
    Submitted,
    check_launcher,
    check_mode,
    check_times,
    record_failure,
    refused,
    wait_for,
)
from t2.run.sweep import read_jobs

CHOSEN = ("-m", "hydra/launcher=slurm", "seed=0,1")


def test_a_launcher_without_m_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra passes over it in silence, on the command line and in an experiment."""
    with pytest.raises(ValueError, match="passes over it without -m"):
        check_launcher(CHOSEN[1:])
    check_launcher(["hydra/launcher=basic"])
    hydra: Any = SimpleNamespace(mode=RunMode.RUN, runtime=SimpleNamespace(choices={"hydra/launcher": "slurm"}))
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    with pytest.raises(ValueError, match="passes over it without -m"):
        check_mode()
    hydra.mode = RunMode.MULTIRUN
    check_mode()


def test_a_missing_plugin_and_a_missing_slurm_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="no sbatch and no srun on this machine's PATH"):
        check_launcher(CHOSEN)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "transformer2\[slurm\]"'):
        check_launcher(CHOSEN)


def test_a_time_limit_within_the_signals_reach_is_refused() -> None:
    check_times(4, 120)
    with pytest.raises(ValueError, match="Give more than 180 s, or lower signal_delay_s"):
        check_times(3, 120)


def test_a_refusal_is_in_sbatchs_words() -> None:
    error = RuntimeError("Command failed\nsbatch: error: invalid partition specified: x\n")
    said = refused(error, {"partition": "x", "account": None, "nodes": 2})
    assert "sbatch: error: invalid partition specified: x\nAsked for: partition=x, nodes=2." in said


def failing(error: BaseException | None, returned: JobReturn | None = None) -> SlurmTask:
    def launcher(*_: Any) -> JobReturn | None:
        if error is not None:
            raise error
        return returned

    return SlurmTask(launcher)


def test_a_failed_run_is_a_failed_job_and_a_stopped_one_leaves_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher would take the result of a job that is requeued for its last."""
    monkeypatch.setattr(launch_slurm, "is_being_stopped", lambda: False)
    caused = SystemExit(1)
    caused.__context__ = ValueError("this grader is broken")
    broken = JobReturn(status=JobStatus.FAILED)
    broken.return_value = KeyError("x")
    for task, words in (
        (failing(caused), "this grader is broken"),
        (failing(SystemExit("error: in use")), "^in use"),
        (failing(None, broken), "KeyError: 'x'"),
    ):
        with pytest.raises(JobFailed, match=words):
            task()
    assert failing(SystemExit(0))().status == JobStatus.COMPLETED
    with pytest.raises(SystemExit):
        failing(SystemExit(143))()
    monkeypatch.setattr(launch_slurm, "is_being_stopped", lambda: True)
    for task in (failing(caused), failing(None, broken)):
        with pytest.raises(SystemExit):
            task()


class Job:
    """A job as submitit shows it."""

    def __init__(self, job_id: str, outcome: Any, *, state: str = "FAILED") -> None:
        self.job_id, self.outcome, self.state = job_id, outcome, state
        self.paths = SimpleNamespace(stderr=f"{job_id}.err")

    def done(self) -> bool:
        return self.state != "UNKNOWN"

    def task(self, _: int) -> Job:
        return self

    def results(self) -> list[Any]:
        assert self.done(), "submitit would wait for ever"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [self.outcome]


def test_every_job_is_waited_for_and_the_failed_ones_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra ends at the first that failed; without sacct, submitit waits for ever for one that is lost."""
    utils = pytest.importorskip("submitit.core.utils")
    monkeypatch.setattr(launch_slurm, "in_queue", lambda job: False)
    monkeypatch.setattr(launch_slurm, "GONE_S", 0.01)
    monkeypatch.setattr(launch_slurm, "ASK_S", 0.02)
    lines = "-" * 22
    trace = f"with trace:\n{lines}\nTraceback\nt2.run.launch_slurm.JobFailed: broken:\n    twice\n\n{lines}\nlogs"
    found = [
        Job("9_0", utils.FailedJobError(trace)),
        Job("9_1", utils.UncompletedJobError("no output"), state="OUT_OF_MEMORY"),
        Job("9_2", None, state="UNKNOWN"),
        Job("9_3", "good"),
    ]
    jobs = [
        Submitted(number, (f"seed={number}", "sampling.stop=[a,b]"), tmp_path / str(number), job)
        for number, job in enumerate(found)
    ]
    results, failures = wait_for(jobs)
    assert results == {3: "good"}
    assert failures[0] == "broken:\n    twice"
    assert failures[1] == "it was lost: it left no result, and its state is OUT_OF_MEMORY."
    assert failures[2].startswith("it was lost: it left no result, and sacct")
    record_failure(jobs[1], failures[1], tmp_path)
    (known,) = read_jobs(tmp_path)
    assert (known.number, known.state, known.folder) == (1, "failed", str(tmp_path / "1"))
    assert known.error == f"{failures[1]}\nIts output: 9_1.err"


def test_an_interrupt_says_that_the_jobs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_slurm, "in_queue", lambda job: True)
    monkeypatch.setattr(launch_slurm.time, "sleep", interrupted)
    with pytest.raises(SystemExit) as ended:
        wait_for([Submitted(0, (), tmp_path, Job("9_0", None, state="UNKNOWN"))])
    assert ended.value.code == 130
    assert "scancel 9" in caplog.text
