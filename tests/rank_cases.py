"""Short runs that tests/training/test_ranks.py compares: by one process, and by two that share them.

`main` is what each of two processes does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LetterTask
from lightning.pytorch.utilities.exceptions import SIGTERMException
from training_run import fit, flat, make_module

import t2.training.module
from t2.run.metrics_csv import MetricsCSV
from t2.run.ranks import AnotherRankFailed
from t2.training.callbacks import Checkpoints, Validation
from t2.training.data import PromptSchedule
from t2.training.es import ES
from t2.training.grpo import GRPO
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO, SFT, Reinforce
from t2.training.ranks import AdapterDDP
from t2.training.sample_table import SampleTable
from t2.types import Example, Sampling

CLIPPED_STEP = t2.training.module.clipped_step
PROMPTS, STEPS = 7, 3  # a part of 3 and one of 4


@dataclass(frozen=True)
class FirstPrompts(LetterTask):
    """Compares the samples of the first prompt of each step alone, or of none."""

    prompts: tuple[str, ...] = ()

    def score(self, example: Example, text: str) -> float:
        return super().score(example, text) if example.prompt in self.prompts else 0.5


@dataclass(frozen=True)
class Breaks(LetterTask):
    """Raises for the last prompt of the first step, which is the second process's."""

    def score(self, example: Example, text: str) -> float:
        if example.prompt == BATCHES[0][-1].prompt:
            raise ValueError("this grader is broken")
        return super().score(example, text)


@dataclass(frozen=True)
class Terminated(LetterTask):
    """SIGTERM comes to the first process while the second waits for its completions."""

    def score(self, example: Example, text: str) -> float:
        if example.prompt == BATCHES[1][0].prompt:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().score(example, text)


BATCHES = [PromptSchedule(LetterTask().split("train"), PROMPTS, 7).at(step) for step in range(STEPS)]
ONE_SIDED = FirstPrompts(prompts=tuple(batch[0].prompt for batch in BATCHES))
CASES: dict[str, dict[str, Any]] = {
    "rloo": {"objective": RLOO(length_norm="batch_tokens")},
    "reinforce": {"objective": Reinforce(batch_norm="standardize", kl_coefficient=0.1)},
    "grpo": {"objective": GRPO(updates_per_rollout=2, scale="batch")},
    "sft": {"objective": SFT()},
    "es": {"objective": ES(population_size=4)},
    "one_sided": {"task": ONE_SIDED},
    "no_signal": {"task": FirstPrompts()},
}


def module_of(case: str) -> ExpertTraining:
    module = make_module(lr=1e-2, **CASES[case])
    if case == "sft":
        module.sampling = Sampling(max_new_tokens=6, temperature=1.0)
    return module


def run(
    case: str, folder: Path, *, steps: int = STEPS, module: ExpertTraining | None = None, **options: Any
) -> dict[str, Any]:
    """Train as in a case, or a `module`, and return what has to be the same whoever computes it."""
    module, validation, seen = module or module_of(case), Validation(every=2), []
    keep_gradients(seen)
    callbacks = [validation, SampleTable(every=1), Checkpoints()]
    fit(module, folder, steps=steps, prompts=PROMPTS, callbacks=callbacks, **options)
    record = module.last_step
    assert record is not None
    return {
        "z": flat(module),
        "gradients": seen,
        "tokens": [[list(one.token_ids) for one in group] for group in record.completions],
        "reports": {step: list(scores) for step, scores in validation.reports.items()},
        "metrics": {name: value for name, value in module.metrics.items() if "second" not in name},
    }


def keep_gradients(seen: list[list[torch.Tensor | None]]) -> None:
    """Have a copy of all gradients kept before each step."""

    def recording(optimizer: Any, schedule: Any, parameters: Sequence[Any], clip_norm: float) -> dict[str, float]:
        seen.append([None if one.grad is None else one.grad.clone() for one in parameters])
        return CLIPPED_STEP(optimizer, schedule, parameters, clip_norm)

    t2.training.module.clipped_step = recording


def in_processes(folder: Path, main: Callable[[Path], None], size: int = 2) -> list[dict[str, Any]]:
    """Call `main` in several processes, and return what each found.

    They are forked by a server that has imported torch and t2 once.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_cases", "shard_cases"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.11's server looks nowhere else
        forkserver.ensure_running()
    processes = [
        context.Process(target=_one_of, args=(main, folder, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * size, codes
    return [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(size)]


def _one_of(main: Callable[[Path], None], folder: Path, variables: dict[str, str]) -> None:
    """One of several processes, with the variables that torchrun sets."""
    os.environ |= variables
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(folder)


def two(devices: int = 2, machines: int = 1) -> dict[str, Any]:
    """The trainer's options for two processes, or another number."""
    return {"strategy": AdapterDDP(), "devices": devices, "num_nodes": machines, "use_distributed_sampler": False}


def main(folder: Path) -> None:
    """All cases, each of the two ranks in folders of its own, which shows what it wrote."""
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {case: run(case, folder / f"{case}{rank}", **two()) for case in CASES}
    found["stopped"] = run("rloo", folder / f"stopped{rank}", steps=2, **two())
    try:
        broken = make_module(task=Breaks())
        fit(broken, folder / f"broken{rank}", prompts=PROMPTS, callbacks=[], logger=False, **two())
    except (ValueError, AnotherRankFailed) as error:
        found["broken"] = [type(error).__name__, str(error)]
    found["metrics_file"] = MetricsCSV(str(folder / f"rloo{rank}")).rows != {}
    torch.save(found, folder / f"found{rank}.pt")
    try:  # last, since the two end apart
        fit(
            make_module(task=Terminated()),
            folder / f"terminated{rank}",
            prompts=PROMPTS,
            callbacks=[Checkpoints()],
            **two(),
        )
    except (SIGTERMException, AnotherRankFailed) as error:
        (folder / f"ended{rank}").write_text(type(error).__name__)
