"""Sweeps, ranks, requeues and failures on a real Slurm: `make test-slurm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from slurm_runs import WORDS, Run, z

from t2.run.slurm import JOB_FILE

REQUEUES = int(os.environ.get("T2_SLURM_REQUEUES", "2"))  # runs that are stopped in the middle of a step

CPU = ("--gpus-per-node=0", "--cpus-per-task=1")  # what the sbatch files ask for is for machines with GPUs
SLOW = "+task.name=slow"


def requeues(run: Path) -> int:
    return int(json.loads((run / JOB_FILE).read_text())["requeues"])


def test_a_sweep_is_one_array_and_a_job_stopped_within_a_step_ends_as_if_it_were_not(
    sweep: Run, tmp_path: Path
) -> None:
    """Bit for bit: half of the jobs are killed in a step, requeued by their own signal, and go on."""
    seeds = ",".join(map(str, range(REQUEUES)))
    done = sweep("+task.name=letters,stopped", f"seed={seeds}", "+task.stop_in=3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = tmp_path.glob("sweep/.submitit/*/*_submission.sh")
    assert f"#SBATCH --array=0-{2 * REQUEUES - 1}%" in file.read_text()
    for seed in range(REQUEUES):
        whole, stopped = tmp_path / "sweep" / str(seed), tmp_path / "sweep" / str(REQUEUES + seed)
        assert (requeues(whole), requeues(stopped)) == (0, 1)
        assert torch.equal(z(whole), z(stopped))
        assert (stopped / "results.json").is_file()
        rows = [path.read_text().splitlines() for path in (whole / "metrics.csv", stopped / "metrics.csv")]
        assert len(rows[0]) == len(rows[1])


def test_jobs_that_are_lost_fail_or_never_end_are_named_and_the_others_finish(sweep: Run, tmp_path: Path) -> None:
    done = sweep("+task.name=letters,lost,wrong,endless")
    shown = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in shown
    assert "1 finished, 0 skipped, 3 failed." in shown
    assert (tmp_path / "sweep" / "0" / "results.json").is_file()
    assert "it was lost: it left no result, and its state is FAILED" in shown
    assert "Again: python train.py" in shown
    assert "this grader is broken" in shown
    assert "nothing was saved in that time, as in the attempt before" in shown
    assert requeues(tmp_path / "sweep" / "3") == 1


def test_two_processes_of_a_job_train_one_expert_and_go_on_together(sweep: Run, tmp_path: Path) -> None:
    done = sweep("+task.name=told", "trainer=ddp", "trainer.devices=2", "hydra.launcher.tasks_per_node=2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "sweep" / "0"
    assert requeues(run) == 1
    assert (run / "results.json").is_file()
    log = (run / "train.log").read_text()
    assert "divided among processes: 1 + 1." in log
    assert log.count("it goes on from its last step") == 1


def test_ranks_that_do_not_fit_the_job_and_wrong_partitions_are_refused(sweep: Run) -> None:
    wrong = sweep("+task.name=letters", "hydra.launcher.partition=nosuch")
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert "error: Slurm refuses the jobs. sbatch: error: invalid partition specified: nosuch" in wrong.stderr
    alone = sweep("+task.name=letters", "trainer=ddp", "trainer.devices=2")
    assert alone.returncode == 1
    assert "Ask for hydra.launcher.tasks_per_node=2" in alone.stdout + alone.stderr


def test_an_sbatch_file_on_two_nodes_and_a_finished_job_is_not_run_again(typed: Run, tmp_path: Path) -> None:
    file = str(ROOT / "examples" / "slurm" / "ddp.sbatch")
    asked = ("--wait", "--output=out.txt", "--nodes=2", "--ntasks-per-node=1", "--time=5", *CPU)
    done = typed("sbatch", *asked, file, *WORDS, "+task.name=letters")
    assert (tmp_path / "out.txt").is_file(), done.stderr
    shown = (tmp_path / "out.txt").read_text()
    assert done.returncode == 0, shown[-3000:]
    (run,) = (tmp_path / "outputs" / "train" / "slurm").iterdir()
    assert (run / "results.json").is_file()
    assert "divided among processes: 1 + 1." in shown
    before = (run / "results.json").stat().st_mtime_ns
    typed("scontrol", "requeue", run.name)
    end = time.monotonic() + 120
    while "there is nothing left to do" not in (tmp_path / "out.txt").read_text() and time.monotonic() < end:
        time.sleep(1)
    assert "there is nothing left to do" in (tmp_path / "out.txt").read_text()
    assert (run / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_an_sbatch_file_goes_on_after_its_time_limit_and_its_folder_is_its_own(typed: Run, tmp_path: Path) -> None:
    file = str(ROOT / "examples" / "slurm" / "train.sbatch")
    asked = ("--time=2", "--signal=USR1@30", *CPU)  # after 30 to 60 s
    first = typed("sbatch", "--output=first.txt", *asked, file, *WORDS, SLOW, "steps=9", "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints").is_dir() and time.monotonic() < end:
        time.sleep(0.5)
    other = typed("sbatch", "--wait", "--output=other.txt", "--time=5", *CPU, file, *WORDS, "hydra.run.dir=run", SLOW)
    assert other.returncode != 0
    refused = (tmp_path / "other.txt").read_text()
    # The second where the first job was waiting for its next attempt at that moment.
    assert "run is in use: process" in refused or "of an earlier run, which a new one would write over" in refused
    whole = typed(sys.executable, "train.py", *WORDS, "+task.name=letters", "steps=9", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    end = time.monotonic() + 150
    while not (tmp_path / "run" / "results.json").is_file() and time.monotonic() < end:
        time.sleep(1)
    shown = (tmp_path / "first.txt").read_text()
    assert "it is requeued" in shown, shown[-3000:]
    assert "it goes on from its last step" in shown
    assert requeues(tmp_path / "run") >= 1
    assert torch.equal(z(tmp_path / "run"), z(tmp_path / "whole"))


def test_a_job_that_gives_way_to_one_of_higher_priority_goes_on_from_its_last_step(sweep: Run, tmp_path: Path) -> None:
    """Slurm itself requeues it, with no signal before, and z is that of the job beside it, bit for bit."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sweep, "hydra.launcher.partition=spare", "+task.name=slow,letters")
        run, whole = tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"
        end = time.monotonic() + 240
        while not (run / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < end:
            time.sleep(0.5)
        job = str(json.loads((run / JOB_FILE).read_text())["job"])
        where = slurm("squeue", "--noheader", "--format=%N", f"--jobs={job}")
        slurm(
            "sbatch",
            "--wait",
            "--partition=urgent",
            "--exclusive",
            "--output=/dev/null",
            f"--nodelist={where}",
            "--wrap=true",
        )
        done = running.result()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "it goes on from its last step" in (run / "train.log").read_text()
    assert "it goes on from its last step" not in (whole / "train.log").read_text()
    assert requeues(run) == 0  # at its own request
    assert torch.equal(z(run), z(whole))


def slurm(*words: str) -> str:
    """What a command of Slurm says."""
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=True).stdout.strip()
