"""How many runs that are killed at a random moment and resumed end with exactly the z of the undisturbed run.

    python bench/kill.py [--kills 50] [--steps 8] [--temporary /dev/shm] [--seed 0] [--output FILE.json]

Each kill is a SIGKILL to a training run of the tiny model: a third of them after a random time, a third while a file of
a checkpoint is being written, a third at a random time in a sweep of two jobs. The run is then resumed (or begun again
in an emptied folder, where it had no checkpoint yet), and must end with the multipliers, the optimizer, the expert and
the validation scores of a run that nothing happened to. `--temporary` is the folder for temporary files: on another
file system than the runs, a rename out of it would be a copy. Not measured: power failures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, count, finish, parser, table
from tqdm import tqdm

from t2.experts.expert import EXPERT_FILE, Expert
from t2.run.results import RESULTS_FILE
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT, Form
from t2.training.checkpoint_file import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, read_checkpoint
from t2.types import Example

LETTERS = "{_target_:kill.Letters,name:letters,max_new_tokens:8}"
KINDS = ("time", "write", "sweep")
SEEDS = (0, 1)  # of the sweep's two jobs
TIMEOUT_S = 300.0
CONTEXT = multiprocessing.get_context("forkserver")  # children start with everything imported, in milliseconds


@dataclass(frozen=True)
class Letters:
    """The more of the answer is lower-case letters, the better: a random model has a gradient, unlike on sums."""

    name: str
    max_new_tokens: int
    form: Form = IN_PROMPT

    def split(self, split: Split) -> Sequence[Example]:
        """Rows that differ by a number."""
        first, last = {"train": (0, 40), "val": (40, 48), "test": (48, 56)}[split]
        return [Example(prompt=f"number {n}", answer="abc") for n in range(first, last)]

    def score(self, example: Example, text: str) -> float:
        """The share of letters."""
        return sum("a" <= letter <= "z" for letter in text) / max(1, len(text))

    def chance(self, example: Example) -> Mapping[str, float]:
        """No guess has one."""
        return {}


def run_train(arguments: Sequence[str], log: str) -> None:
    """The body of a child process: `python train.py` with these arguments, its output to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    from t2.cli.main import run

    run("train")


class Runs:
    """Training runs of the tiny model below one folder."""

    def __init__(self, folder: Path, steps: int) -> None:
        """Do the first undisturbed run, and keep how long it took."""
        self.folder, self.log = folder, folder / "output.txt"
        self.settings = (
            *("experiment=smoke", "logger=csv", "~task", f"+task={LETTERS}", f"steps={steps}"),
            *("callbacks.validation.every=2", "optimizer.warmup_steps=1"),
        )
        first = CONTEXT.Process(target=int)  # starts the server that children are forked from, which imports for long
        first.start()
        first.join(TIMEOUT_S)
        start = time.perf_counter()
        self.whole(SEEDS[0])
        self.seconds = time.perf_counter() - start

    def whole(self, seed: int) -> Path:
        """The folder of the undisturbed run of a seed, which is done when it is first asked for."""
        run = self.folder / f"whole{seed}"
        if not run.exists():
            self.finish(self.start(f"seed={seed}", f"hydra.run.dir={run}"))
        return run

    def start(self, *arguments: str, new: bool = True) -> ForkServerProcess:
        """Start train.py in a process of its own; `new` adds the settings, which a resumed run has already."""
        given = [*arguments[:1], *self.settings, *arguments[1:]] if new else [*arguments]
        process = CONTEXT.Process(target=run_train, args=(given, str(self.log)))
        process.start()
        return process

    def finish(self, process: ForkServerProcess) -> None:
        """Wait for a run; RuntimeError, with what it printed, where it failed."""
        process.join(TIMEOUT_S)
        if process.exitcode != 0:
            process.kill()
            raise RuntimeError(f"A run ended with {process.exitcode}:\n{self.log.read_text()[-3000:]}")

    def killed(self, kind: str, folder: Path, chance: random.Random) -> bool:
        """Start a run, or a sweep, below `folder` and kill it; False where it had ended before."""
        if kind == "sweep":
            where = (f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${seed}")
            process = self.start("-m", f"seed={','.join(map(str, SEEDS))}", *where)
        else:
            process = self.start("seed=0", f"hydra.run.dir={folder / '0'}")
        if kind == "write":
            moments = chance.randrange(8)
            for _ in zip(range(moments + 1), checkpoint_writes(folder / "0", process), strict=False):
                pass
            time.sleep(chance.random() * 3e-3)
        else:
            time.sleep(chance.random() * self.seconds * (2 if kind == "sweep" else 1))
        process.kill()
        process.join(TIMEOUT_S)
        return process.exitcode != 0

    def resume(self, seed: int, run: Path) -> None:
        """Go on with a run, or begin it again where it has no checkpoint."""
        if any((run / name).is_file() for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)):
            self.finish(self.start(f"resume={run}", new=False))
            return
        shutil.rmtree(run, ignore_errors=True)
        self.finish(self.start(f"seed={seed}", f"hydra.run.dir={run}"))


def checkpoint_writes(run: Path, process: ForkServerProcess) -> Iterator[None]:
    """Yield whenever a file of a checkpoint begins to be written, until the process ends."""
    known: set[str] = set()
    while process.is_alive():
        try:
            names = {name for name in os.listdir(run / "checkpoints") if name.endswith(".part")}
        except FileNotFoundError:
            continue
        for _ in names - known:
            yield
        known |= names


def differences(run: Path, whole: Path) -> list[str]:
    """What of a run is not what it is in the undisturbed one."""
    states = [read_checkpoint(folder / LAST_CHECKPOINT) for folder in (run, whole)]
    experts = [Expert.load(folder / EXPERT_FILE) for folder in (run, whole)]
    scores = [json.loads((folder / RESULTS_FILE).read_text())["scores"] for folder in (run, whole)]
    found = {
        "multipliers": torch.equal(*(_joined(state["state_dict"]) for state in states)),
        "optimizer": torch.equal(*(_moments(state) for state in states)),
        "expert": all(torch.equal(z, experts[1].scales[name]) for name, z in experts[0].scales.items()),
        "metadata": experts[0].metadata == experts[1].metadata,
        "scores": scores[0] == scores[1],
    }
    return [name for name, same in found.items() if not same]


def _moments(state: dict[str, Any]) -> torch.Tensor:
    (optimizer,) = state["optimizer_states"]
    return torch.cat([_joined(state) for state in optimizer["state"].values()])


def _joined(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def one_kill(runs: Runs, kind: str, number: int, chance: random.Random) -> dict[str, Any]:
    """Kill a run of a kind, go on with it and compare; a run that ended before the kill is tried anew."""
    for attempt in range(20):
        folder = runs.folder / f"{number}-{attempt}"
        if runs.killed(kind, folder, chance):
            break
        shutil.rmtree(folder)
        runs.seconds *= 0.8  # the first run was slower than these
    else:
        raise RuntimeError(f"20 runs ended before they were killed ({kind}); raise --steps.")
    seeds = SEEDS if kind == "sweep" else SEEDS[:1]
    in_write = len(list(folder.rglob(".*.part")))
    steps = [step_of(folder / str(seed) / LAST_CHECKPOINT) for seed in seeds]
    for seed in seeds:
        runs.resume(seed, folder / str(seed))
    found = [what for seed in seeds for what in differences(folder / str(seed), runs.whole(seed))]
    shutil.rmtree(folder)
    return {"kind": kind, "steps": steps, "unfinished_files": in_write, "differences": found}


def step_of(checkpoint: Path) -> int | None:
    """The step of a checkpoint; None where there is none."""
    return int(read_checkpoint(checkpoint)["global_step"]) if checkpoint.is_file() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a run ended differently."""
    made = parser(__doc__)
    made.add_argument("--kills", type=count, default=50)
    made.add_argument("--steps", type=count, default=8)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--temporary", type=Path, help="the folder for temporary files of the runs (TMPDIR)")
    args = made.parse_args(arguments)
    if args.temporary is not None:
        os.environ["TMPDIR"] = str(args.temporary)
    paths = (str(ROOT), str(ROOT / "bench"), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)  # the server finds modules by it alone
    CONTEXT.set_forkserver_preload(["train", "reasoning_gym"])
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=args.output.parent if args.output else None) as folder:
        runs = Runs(Path(folder), args.steps)
        kills = [one_kill(runs, KINDS[n % len(KINDS)], n, chance) for n in tqdm(range(args.kills), disable=None)]
    report(args, kills)
    return int(any(kill["differences"] for kill in kills))


def report(args: argparse.Namespace, kills: Sequence[dict[str, Any]]) -> None:
    """Print how many runs of each kind ended as they should."""
    rows = []
    for kind in KINDS:
        of_kind = [kill for kill in kills if kill["kind"] == kind]
        equal = sum(not kill["differences"] for kill in of_kind)
        cut = sum(kill["unfinished_files"] > 0 for kill in of_kind)
        rows.append({"killed": kind, "kills": len(of_kind), "in a write": cut, "same z after resuming": equal})
    equal = sum(not kill["differences"] for kill in kills)
    finish(args, f"{table(rows)}\n{equal} of {len(kills)} ended with the z of the undisturbed run", {"kills": kills})


if __name__ == "__main__":
    sys.exit(main())
