"""Whether a sweep whose launcher is killed at random moments ends with every result, none of them made twice.

    python bench/kill_sweep.py [--kills 20] [--jobs 20] [--seed 0] [--output FILE.json]

A sweep of trivial jobs is started, killed by SIGKILL after a random time, and started again in its folder with
`skip_finished=true`, as often as there are kills; then it runs to its end. A result that was there at a kill must be
the same file at the end (it is never written again), no job may begin once it has its result, and every job must end
with the result that its number says. A third of the kills come while a result is being written. Not measured: what a
killed training run resumes with (bench/kill.py).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from measure import ROOT, count, finish, parser, table
from omegaconf import DictConfig
from tqdm import tqdm

from t2.evaluation.results import Results, Score
from t2.run.launch import launch
from t2.run.results import RESULTS_FILE

CONF = """
defaults:
  - paths@hydra: folders
  - _self_
number: 0
begun: null
wait_s: 0.0
skip_finished: false
paths: {run: "${hydra:runtime.output_dir}"}
"""
TIMEOUT_S = 300.0
WAIT_S = 0.02  # of a job
CONTEXT = multiprocessing.get_context("forkserver")  # children start with everything imported, in milliseconds


def job(cfg: DictConfig) -> Results:
    """A job: it says that it begins, waits, and writes a result that its number decides."""
    descriptor = os.open(cfg.begun, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{cfg.number}\n".encode())
    os.close(descriptor)
    time.sleep(cfg.wait_s)
    scores = {"numbers": {"base": Score(cfg.number / 100, None, 1, None)}}
    return Results(
        command="evaluate", base_model="none", adapter=None, task="numbers", strategy="base", trainable_parameters=0,
        headline=cfg.number / 100, scores=scores, paired={}, seconds={}, seed=0,
    ).write(Path(cfg.paths.run))  # fmt: skip


def run_sweep(folder: str, jobs: int, conf: str) -> None:
    """The body of a child process: the sweep, from its start or from where it was killed."""
    log = os.open(Path(folder) / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    numbers = ",".join(map(str, range(jobs)))
    sys.argv = [
        *("kill_sweep.py", "-m", f"number={numbers}", f"wait_s={WAIT_S}", f"begun={folder}/begun.txt"),
        *("skip_finished=true", f"hydra.sweep.dir={folder}/sweep"),
    ]
    launch(job, conf=Path(conf), name="job")


class KilledSweep:
    """One sweep in a folder, which is killed and started again."""

    def __init__(self, folder: Path, jobs: int) -> None:
        """Nothing runs yet."""
        self.folder, self.jobs = folder, jobs
        conf = folder / "conf"
        conf.mkdir()
        (conf / "job.yaml").write_text(CONF)
        (conf / "paths").symlink_to(ROOT / "conf" / "paths")
        self.faults: list[str] = []
        self.known: dict[int, tuple[int, int]] = {}  # job -> inode and time of its result, as first seen

    def start(self) -> ForkServerProcess:
        """Start the sweep in a process of its own."""
        process = CONTEXT.Process(target=run_sweep, args=(str(self.folder), self.jobs, str(self.folder / "conf")))
        process.start()
        return process

    def results(self) -> dict[int, tuple[int, int]]:
        """Which file holds the result of each job that has one."""
        found = {}
        for number in range(self.jobs):
            path = self.folder / "sweep" / str(number) / RESULTS_FILE
            if path.is_file():
                about = path.stat()
                found[number] = (about.st_ino, about.st_mtime_ns)
        return found

    def begun(self) -> list[int]:
        """The jobs that have begun, in order, each as often as it did."""
        path = self.folder / "begun.txt"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def kill(self, chance: random.Random, *, in_write: bool) -> dict[str, Any]:
        """Start the sweep, and kill it at a random moment, `in_write` while a result is being written."""
        before = self.begun()
        process = self.start()
        self._wait_for_a_job(process, len(before))
        if in_write:
            self._wait_for_a_write(process)
        else:
            time.sleep(chance.random() * 0.15)
        process.kill()
        process.join(TIMEOUT_S)
        ended = process.exitcode == 0
        self._compare(self.begun()[len(before) :])
        unfinished = len(list((self.folder / "sweep").rglob(f".{RESULTS_FILE}.*.part")))
        return {"results": len(self.known), "unfinished_files": unfinished, "ended_before": ended}

    def end(self) -> None:
        """Run the sweep to its end, and look at all results."""
        before = self.begun()
        process = self.start()
        process.join(TIMEOUT_S)
        if process.exitcode != 0:
            process.kill()
            self.faults.append(f"the sweep ended with {process.exitcode}")
        self._compare(self.begun()[len(before) :])
        for number in range(self.jobs):
            if number not in self.known:
                self.faults.append(f"job {number} has no result")
            elif Results.read(self.folder / "sweep" / str(number)).headline != number / 100:
                self.faults.append(f"job {number} has the result of another")

    def _compare(self, begun: Sequence[int]) -> None:
        """Note what was lost, written again or begun again since the last look."""
        now = self.results()
        self.faults += [f"the result of job {number} is lost" for number in self.known.keys() - now.keys()]
        self.faults += [f"job {n} was written again" for n in self.known.keys() & now.keys() if self.known[n] != now[n]]
        self.faults += [f"job {number} began again" for number in begun if number in self.known]
        self.known = now

    def _wait_for_a_job(self, process: ForkServerProcess, known: int) -> None:
        while process.is_alive() and len(self.begun()) == known:
            time.sleep(1e-3)

    def _wait_for_a_write(self, process: ForkServerProcess) -> None:
        while process.is_alive():
            newest = self.folder / "sweep" / str(self.begun()[-1])
            if any(name.startswith(f".{RESULTS_FILE}") for name in os.listdir(newest)):
                return


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a result was lost or made twice."""
    made = parser(__doc__)
    made.add_argument("--kills", type=count, default=20)
    made.add_argument("--jobs", type=count, default=20)
    made.add_argument("--seed", type=int, default=0)
    args = made.parse_args(arguments)
    paths = (str(ROOT), str(ROOT / "bench"), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)  # the server finds modules by it alone
    CONTEXT.set_forkserver_preload(["kill_sweep"])
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=args.output.parent if args.output else None) as folder:
        sweep = KilledSweep(Path(folder), args.jobs)
        kills = [sweep.kill(chance, in_write=n % 3 == 2) for n in tqdm(range(args.kills), disable=None)]
        sweep.end()
        report(args, sweep, kills)
    return int(bool(sweep.faults))


def report(args: argparse.Namespace, sweep: KilledSweep, kills: Sequence[dict[str, Any]]) -> None:
    """Print how many results there are, and what went wrong."""
    real = [kill for kill in kills if not kill["ended_before"]]
    cut = sum(kill["unfinished_files"] > 0 for kill in real)
    twice = len(sweep.begun()) - sweep.jobs
    row = {"jobs": sweep.jobs, "results": len(sweep.known), "kills": len(real), "in a write": cut, "begun again": twice}
    text = f"{table([row])}\n{len(sweep.faults)} results lost or made twice"
    finish(args, "\n".join([text, *sweep.faults]), {"kills": list(kills), "faults": sweep.faults, "row": row})


if __name__ == "__main__":
    sys.exit(main())
