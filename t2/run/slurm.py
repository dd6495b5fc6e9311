"""A run as a job of Slurm: which job this is, and how it goes on after Slurm has stopped and requeued it.

Slurm stops a job at its time limit, for another of higher priority, or with its node. Before the first it sends a
signal (sbatch --signal, `hydra.launcher.signal_delay_s`), and this module answers with `scontrol requeue`: every
finished step is in `checkpoints/last.ckpt` by then. A requeued job has the number it had, which is kept in
`RUN/.slurm.json`: so the same job goes on in its folder, and another is refused there as ever (`t2.run.folder_lock`).

Not done here: jobs of a sweep (`t2.run.launch_slurm`), their ranks (`t2.run.launch_ranks`), the checkpoint itself.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from t2.run.files import atomic_path
from t2.run.places import typed
from t2.run.ranks import SIGTERM_STATUS
from t2.run.results import RESULTS_FILE
from t2.run.words import for_shell

log = logging.getLogger(__name__)
JOB_FILE = ".slurm.json"
SAVED = "checkpoints/last.ckpt"  # what a stopped run goes on from
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # users' sbatch files send the first, submitit the second
INTERACTIVE = ("bash", "interactive")  # names of jobs in which a user types commands, as Lightning takes them
FRUITLESS = 2  # attempts in a row that save nothing: there will be no end
SCONTROL_TIMEOUT_S = 60
WANDB_FLUSH_S = 1  # how often W&B writes what was logged (`t2.run.tracking` sets it); by default every 15 s
Stat = tuple[int, int] | None  # time of change in nanoseconds and size in bytes; None: there is no such file


def slurm_job() -> str | None:
    """The job that this process belongs to, `NUMBER` or `NUMBER_TASK` of an array; None outside of one."""
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def in_step() -> bool:
    """Whether srun started this process; the lines of an sbatch file run outside of its steps."""
    return slurm_job() is not None and "SLURM_STEP_ID" in os.environ


def restarts() -> int:
    """How many times Slurm has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


@dataclass(frozen=True)
class Record:
    """What `RUN/.slurm.json` holds: whose folder this is, and what its attempts came to."""

    job: str
    cluster: str
    results_before: Stat  # of a results.json that was there before this job
    requeues: int = 0  # at a signal
    fruitless: int = 0  # attempts in a row that ended with a signal and saved nothing

    @classmethod
    def new(cls, folder: Path, job: str) -> Record:
        """That of a job which starts in `folder`."""
        return cls(job, os.environ.get("SLURM_CLUSTER_NAME", ""), _stat(folder / RESULTS_FILE))

    @classmethod
    def of_requeued(cls, folder: Path) -> Record | None:
        """That of this job where Slurm has started it again, and it had begun in `folder`; None else."""
        job, path = slurm_job(), folder / JOB_FILE
        if job is None or restarts() == 0 or not path.is_file():
            return None
        content = json.loads(path.read_text())
        before = content.pop("results_before")
        record = cls(**content, results_before=None if before is None else (before[0], before[1]))
        return record if (record.job, record.cluster) == (job, os.environ.get("SLURM_CLUSTER_NAME", "")) else None

    def write(self, folder: Path) -> None:
        """Keep it in `folder`."""
        with atomic_path(folder / JOB_FILE) as partial:
            partial.write_text(json.dumps(asdict(self)))

    def is_finished(self, folder: Path) -> bool:
        """Whether the job has written its results, so that there is nothing left to do."""
        return _stat(folder / RESULTS_FILE) not in (None, self.results_before)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can go on from what is saved in `folder`."""
    return any((folder / name).is_file() for name in (SAVED, "checkpoints/previous.ckpt"))


class Requeue:
    """Answers Slurm's signal: has the job requeued, or says why not.

    Slurm then ends the job's processes with SIGTERM and, a while later (its KillWait, 30 s by default), SIGKILL. A step
    that ends in between is saved, too.
    """

    def __init__(self, folder: Path, record: Record, *, limit: int | None) -> None:
        """`limit` is how often the job may be requeued; None: as often as it takes."""
        self.folder, self.record, self.limit = folder, record, limit
        self.saved, self.start, self.asked = _stat(folder / SAVED), time.monotonic(), False

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Serve the signal; SystemExit where a requeued job would not get further, or has been requeued enough."""
        if self.asked:
            return
        record, seconds = self.record, time.monotonic() - self.start
        here = f"Slurm's {signal.Signals(signum).name} to job {record.job}, {seconds:.0f} s after it started"
        fruitless = 0 if _stat(self.folder / SAVED) != self.saved else record.fruitless + 1
        if fruitless >= FRUITLESS:
            raise SystemExit(
                f"error: {here}: nothing was saved in that time, as in the attempt before, so the job is not requeued. "
                "Its time limit is too short for a step (or, where there are no checkpoints, for the whole): raise it "
                "(hydra.launcher.timeout_min, sbatch --time), or make steps smaller (prompts_per_step), or save more "
                "often (callbacks.checkpoints.every)."
            )
        if self.limit is not None and record.requeues >= self.limit:
            raise SystemExit(
                f"error: {here}: it has been requeued {record.requeues} times, which is hydra.launcher.max_num_timeout."
                f"{self._by_hand()}"
            )
        self.record = replace(record, requeues=record.requeues + 1, fruitless=fruitless)
        self.record.write(self.folder)
        if getattr(sys.modules.get("wandb"), "run", None) is not None:
            time.sleep(2 * WANDB_FLUSH_S)  # its own process is killed, too, and has what was logged last
        refusal = requeue(record.job)
        if refusal is not None:
            log.error("%s: it cannot be requeued, and will end at its limit: %s.%s", here, refusal, self._by_hand())
            return
        self.asked = True
        log.warning("%s: it is requeued, and will go on from what is saved.", here)

    def _by_hand(self) -> str:
        word = for_shell("resume", self.folder)
        return f" Go on with: {typed('train')} {word}" if has_checkpoint(self.folder) else ""


def requeue(job: str) -> str | None:
    """Have Slurm stop a job and queue it again; returns what Slurm says where it refuses."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"scontrol exits with {done.returncode}"


@contextmanager
def requeued_on_signal(folder: Path, *, first: bool, limit: int | None) -> Iterator[None]:
    """Within the block, answer Slurm's signal in the first process of a run, and ignore it in the others.

    Outside of a job of Slurm nothing is done.

    Raises:
        SystemExit: in place of an error that comes while Slurm is stopping the job (a library's process is gone, say).
    """
    job = slurm_job()
    if job is None:
        yield
        return
    answer: Requeue | None = None
    if first:
        record = Record.of_requeued(folder) or Record.new(folder, job)
        record.write(folder)
        answer = Requeue(folder, record, limit=limit)
    before = {one: signal.signal(one, answer or _ignore) for one in SIGNALS}
    try:
        yield
    except Exception as error:
        if not is_being_stopped():
            raise
        log.warning("Slurm is stopping this job, and this comes of it: %s", error)
        raise SystemExit(SIGTERM_STATUS) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def is_being_stopped() -> bool:
    """Whether Slurm is ending this job, so that an error may be of that alone."""
    try:
        asked = ["squeue", "--noheader", "--format=%T", f"--jobs={slurm_job()}"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() not in ("", "RUNNING")


def _ignore(signum: int, _: FrameType | None) -> None:
    """Leave it to the first process."""


def _stat(path: Path) -> Stat:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
