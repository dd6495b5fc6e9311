"""How well pass 1 names the domain of a prompt, on the validation split of task=dispatch: accuracy and seconds.

    python bench/dispatch.py [--limit N] [--output FILE]

The ways of asking that conf/strategy offers, with and without calibration and solved examples, all on the same prompts,
which no expert was trained on. The majority class is one label in four.
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

from t2.adapters.svf import SVF
from t2.confusion import confusion_matrix
from t2.generation.hf import HFGenerator
from t2.pool import ExpertPool
from t2.strategies.base import PooledModel
from t2.strategies.dispatch import PromptDispatch
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


def load_task() -> Dispatch:
    """task=dispatch with the tasks its defaults list names."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        task = instantiate(compose("train", overrides=["task=dispatch"]).task)
    assert isinstance(task, Dispatch), f"task=dispatch builds a {type(task).__name__}"
    return task


def main(argv: Sequence[str]) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ways", help="names separated by semicolons; all if not given")
    parser.add_argument("--limit", type=count, help="the first so many prompts")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    args = parser.parse_args(argv)
    task = load_task()
    pool = ExpertPool.load(ROOT / "experts" / "smollm2_135m")
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
        right = sum(a == b for a, b in zip(chosen, gold, strict=True)) / len(gold)
        error = math.sqrt(right * (1 - right) / len(gold))
        counts = confusion_matrix(gold, chosen, labels)
        rows.append({"name": name, "accuracy": right, "stderr": error, "seconds": seconds, "confusion": counts})
        print(f"{name:<24}{right:>10.3f}{error:>8.3f}{seconds:>9.1f}   {counts}", flush=True)
    write(origin() | {"arguments": arguments(args), "labels": labels, "systems": rows}, args.output)


if __name__ == "__main__":
    main(sys.argv[1:])
