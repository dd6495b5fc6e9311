"""A sweep as jobs of Slurm (hydra/launcher=slurm): what is checked first, and what has become of each job.

submitit writes the sbatch file, one array for a sweep, and each job brings its result back as a file. A job that Slurm
killed brings none: that is learned from sacct, or where there is none from squeue. `hydra_plugins.t2_slurm` is the
launcher; what a job does about signals is `t2.run.slurm`'s.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from t2.run.ranks import SIGTERM_STATUS
from t2.run.slurm import is_being_stopped
from t2.run.sweep import Job

log = logging.getLogger(__name__)
LAUNCHER = "hydra/launcher"
ASK_S = 1.0  # between two looks at jobs that run
SIGINT_STATUS = 130  # 128 + 2, what shells say of a process that was interrupted
GONE_S = 30.0  # a result may be that late on a file system of many machines; for clusters without sacct
SIGNAL_EARLY_S = 60  # Slurm sends its signal up to so much before its time
FAILED = "JobFailed: "  # what the last line of a failed job's traceback begins with


class JobFailed(Exception):
    """A job's run ended with an error, which is the message."""


def check_launcher(arguments: Sequence[str]) -> None:
    """Raise ValueError where a launcher is chosen that cannot start, or that Hydra would pass over in silence."""
    chosen = [text.partition("=")[2] for text in arguments if text.lstrip("+").startswith(f"{LAUNCHER}=")]
    if not chosen or chosen[-1] in ("basic", "null"):
        return
    if not {"-m", "--multirun"} & set(arguments):
        raise ValueError(ignored(chosen[-1]))
    if chosen[-1] in ("slurm", "submitit_slurm", "submitit_local") and importlib.util.find_spec("submitit") is None:
        raise ValueError(
            f'{LAUNCHER}={chosen[-1]} needs Hydra\'s plugin for submitit: pip install "transformer2[slurm]", or '
            "pip install hydra-submitit-launcher."
        )
    if chosen[-1] in ("slurm", "submitit_slurm") and (reason := no_slurm()):
        raise ValueError(reason)


def check_mode() -> None:
    """Raise ValueError where this is a single run, and a launcher is chosen (by an experiment, say) that is ignored."""
    chosen = HydraConfig.get().runtime.choices.get(LAUNCHER)
    if HydraConfig.get().mode == RunMode.RUN and chosen not in (None, "basic"):
        raise ValueError(ignored(chosen))


def ignored(launcher: str) -> str:
    """What to say where a launcher is chosen for a run that is no sweep."""
    return (
        f"{LAUNCHER}={launcher} starts the jobs of a sweep, and Hydra passes over it without -m. Add -m (one job is a "
        f"sweep, too), or leave {LAUNCHER} out."
    )


def no_slurm() -> str | None:
    """What is missing on this machine that submits jobs; None where nothing is."""
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if not missing:
        return None
    return (
        f"{LAUNCHER}=slurm: there is no {' and no '.join(missing)} on this machine's PATH. Start the sweep where jobs "
        f"are submitted (a login node of the cluster, perhaps after `module load slurm`), or leave {LAUNCHER} out."
    )


def check_times(timeout_min: float, signal_delay_s: int) -> None:
    """Raise ValueError where jobs would be told to stop as soon as they start."""
    if timeout_min * 60 <= signal_delay_s + SIGNAL_EARLY_S:
        raise ValueError(
            f"hydra.launcher.timeout_min={timeout_min:g} is {timeout_min * 60:.0f} s, and a job is told to stop "
            f"hydra.launcher.signal_delay_s={signal_delay_s} before that, by up to {SIGNAL_EARLY_S} s too early. Give "
            f"more than {signal_delay_s + SIGNAL_EARLY_S} s, or lower signal_delay_s."
        )


def refused(error: Exception, parameters: dict[str, Any]) -> str:
    """What to say where sbatch has refused the jobs: its own words, and what was asked for."""
    words = [line.strip() for line in str(error).splitlines() if line.strip().startswith("sbatch:")]
    asked = ", ".join(
        f"{key}={parameters[key]}"
        for key in ("partition", "account", "qos", "nodes", "gpus_per_node", "gres", "mem_gb", "timeout_min")
        if parameters.get(key) is not None
    )
    return (
        f"Slurm refuses the jobs. {' '.join(words) or error}\nAsked for: {asked}. The keys are hydra.launcher's; "
        "`sinfo` lists partitions, their nodes and times."
    )


@dataclass(frozen=True)
class SlurmTask:
    """What a job runs: submitit's launcher, whose failures are made one message, and those of a stopped job none."""

    launcher: Any

    def __call__(self, *arguments: Any) -> JobReturn:
        """Run one configuration of a sweep.

        Raises:
            JobFailed: the run ended with an error.
            SystemExit: Slurm is stopping the job, which leaves no result; requeued, it goes on.
        """
        try:
            done: JobReturn = self.launcher(*arguments)
        except SystemExit as error:
            if error.code in (None, 0):  # a follower of a run of several processes
                return JobReturn(status=JobStatus.COMPLETED)
            if error.code == SIGTERM_STATUS or is_being_stopped():
                raise
            cause = error.code if isinstance(error.code, str) else error.__context__ or f"exit status {error.code}"
            raise JobFailed(str(cause).removeprefix("error: ")) from None
        if done.status == JobStatus.FAILED:
            if is_being_stopped():
                raise SystemExit(1)
            raise JobFailed(f"{type(done._return_value).__name__}: {done._return_value}") from done._return_value
        return done

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again where its signal comes before `t2.run.slurm` listens to it: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


@dataclass(frozen=True)
class Submitted:
    """A job of a sweep that was given to Slurm."""

    number: int  # in the sweep
    overrides: tuple[str, ...]
    folder: Path
    job: Any  # submitit's


def wait_for(jobs: Sequence[Submitted]) -> tuple[dict[int, Any], dict[int, str]]:
    """Wait until all jobs have ended; the results of those that have one, and what happened to the others, by number.

    Raises:
        SystemExit: at an interrupt; the jobs go on, and a message says how to cancel them.
    """
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    gone_since: dict[int, float] = {}
    try:
        while waiting := [one for one in jobs if one.number not in results and one.number not in failures]:
            for one in waiting:
                if one.job.done():
                    _collect(one, results, failures)
                elif one.job.state != "UNKNOWN" or in_queue(one.job.job_id):
                    gone_since.pop(one.number, None)
                elif time.monotonic() - gone_since.setdefault(one.number, time.monotonic()) >= GONE_S:
                    failures[one.number] = "it was lost: it left no result, and sacct, which would say why, does not."
            time.sleep(ASK_S)
    except KeyboardInterrupt:
        first = jobs[0].job.job_id.partition("_")[0]
        log.warning("The jobs go on without this process. Cancel them with: scancel %s", first)
        raise SystemExit(SIGINT_STATUS) from None
    return results, failures


def _collect(one: Submitted, results: dict[int, Any], failures: dict[int, str]) -> None:
    """Take an ended job's result, or what it says has happened."""
    from submitit.core.utils import FailedJobError, UncompletedJobError  # an extra

    try:
        results[one.number] = one.job.results()[0]
    except FailedJobError as error:
        failures[one.number] = _message(str(error))
    except UncompletedJobError:
        failures[one.number] = f"it was lost: it left no result, and its state is {one.job.state}."
    log.info("Job #%d (%s): %s", one.number, one.job.job_id, "failed" if one.number in failures else "done")


def _message(trace: str) -> str:
    """The message of a failed job: the last error of the traceback that submitit gives."""
    inner = trace.partition("-" * 22 + "\n")[2].rpartition("\n" + "-" * 22)[0] or trace
    if FAILED in inner:
        return inner.rpartition(FAILED)[2].strip()
    return inner.strip().splitlines()[-1]


def in_queue(job: str) -> bool:
    """Whether Slurm has a job that waits or runs; also where squeue cannot say."""
    done = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%i"], capture_output=True, text=True, check=False
    )
    return bool(done.stdout.strip()) if done.returncode == 0 else "Invalid job id" not in done.stderr


def record_failure(one: Submitted, error: str, sweep: Path) -> None:
    """Keep what happened to a job that could not say so itself, for the list at the sweep's end."""
    error += f"\nIts output: {task_output(one.job)}"
    Job(one.number, str(one.folder), one.overrides, "failed", error=error).write(sweep)


def task_output(job: Any) -> Path:
    """Where the first process of a job wrote its errors."""
    return Path(job.task(0).paths.stderr)
