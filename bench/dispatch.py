"""How well pass 1 names the domain of a prompt, on the validation split of a dispatch task: accuracy and seconds.

    python bench/dispatch.py [--task dispatch|dispatch_wide] [--dispatch EXPERT] [--limit N] [--output FILE]

The ways of asking that conf/strategy offers, with and without calibration and solved examples, all on the same prompts,
which no expert was trained on. The majority class is one label in four. What is right in one task's wording and wrong
in another's shows in the shares by task.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from record import ROOT, arguments, count, origin, write

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.evaluation.statistics import confusion_matrix
from t2.experts.expert import Expert
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.tasks.dispatch import Dispatch
from t2.types import OTHER, Example

CONF = ROOT / "conf"


def strategies(task: Dispatch) -> dict[str, PromptDispatch]:
    """The ways of asking."""
    return {
        "generate": PromptDispatch(mode="generate"),
        "score, uncalibrated": PromptDispatch(calibrate=False),
        "score": PromptDispatch(),
        "score, 2 examples": PromptDispatch(examples=task, shots=2),
        "classifier": PromptDispatch(expert="dispatch", calibrate=False),
        "classifier, calibrated": PromptDispatch(expert="dispatch"),
    }


def load_task(name: str) -> Dispatch:
    """A dispatch task with the tasks its defaults list names."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        task = instantiate(compose("train", overrides=[f"task={name}"]).task)
    assert isinstance(task, Dispatch), f"task={name} builds a {type(task).__name__}"
    return task


def load_pool(dispatch: Path | None) -> ExpertPool:
    """The experts that ship, with another dispatch expert if one is given."""
    pool = ExpertPool.load(ROOT / "experts" / "smollm2_135m")
    return pool if dispatch is None else ExpertPool(pool.experts, Expert.load(Expert.find(dispatch)))


def by_task(asked: Sequence[Example], right: Sequence[bool]) -> dict[str, float]:
    """The share of right answers of each task that prompts are from."""
    grades: dict[str, list[bool]] = {}
    for one, good in zip(asked, right, strict=True):
        grades.setdefault(str(one.metadata["task"]), []).append(good)
    return {task: sum(found) / len(found) for task, found in sorted(grades.items())}


def main(argv: Sequence[str]) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ways", help="names separated by semicolons; all if not given")
    parser.add_argument("--task", default="dispatch", help="a file of conf/task")
    parser.add_argument("--dispatch", type=Path, help="a dispatch expert or its run, instead of the one that ships")
    parser.add_argument("--limit", type=count, help="the first so many prompts")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    args = parser.parse_args(argv)
    task = load_task(args.task)
    pool = load_pool(args.dispatch)
    lm = instantiate(OmegaConf.load(CONF / "base_model" / "smollm2_135m.yaml"))
    svf = SVF(progress=False)
    svf.inject(lm.model, lm.source)
    model = PooledModel(HFGenerator(lm, svf), pool)
    asked = task.split("val")[: args.limit]
    prompts = [Example(str(one.metadata["question"])) for one in asked]
    gold = [str(one.answer) for one in asked]
    labels = (*pool.domains, OTHER)
    rows: list[dict[str, Any]] = []
    print(f"{'way of asking':<24}{'accuracy':>10}{'stderr':>8}{'seconds':>9}   ({len(asked)} prompts)")
    ways = strategies(task)
    for name in args.ways.split(";") if args.ways else ways:
        strategy = ways[name]
        start = time.perf_counter()
        chosen = [str(choice.label) for choice in strategy.choose(model, prompts)]
        seconds = time.perf_counter() - start
        right = [a == b for a, b in zip(chosen, gold, strict=True)]
        accuracy, shares = sum(right) / len(right), by_task(asked, right)
        row = {
            "name": name,
            "accuracy": accuracy,
            "stderr": math.sqrt(accuracy * (1 - accuracy) / len(right)),
            "seconds": seconds,
            "confusion": confusion_matrix(gold, chosen, labels),
            "by_task": shares,
        }
        rows.append(row)
        said = ", ".join(f"{task} {share:.2f}" for task, share in shares.items())
        print(f"{name:<24}{accuracy:>10.3f}{row['stderr']:>8.3f}{seconds:>9.1f}   {said}", flush=True)
    write(origin() | {"arguments": arguments(args), "labels": labels, "systems": rows}, args.output)


if __name__ == "__main__":
    main(sys.argv[1:])
