"""Accuracy and seconds of pass 1 in naming the domain of a prompt, on the validation split of a dispatch task.

    python bench/dispatch.py [--task dispatch|dispatch_wide] [--dispatch EXPERT] [--limit N] [--output FILE]

The ways of asking that conf/strategy offers, with and without calibration and solved examples, all on the same prompts,
which no expert was trained on. The majority class is one label in four. The accuracies by task show what is right in
one task's wording and wrong in another's. `--model tiny` has random weights and experts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import ROOT, count, finish, names_of, parser, table, timed
from models import inject_svf, load, random_experts
from tqdm import tqdm

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import Choice, PooledModel
from t2.evaluation.statistics import confusion_matrix
from t2.experts.expert import Expert
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.tasks.dispatch import Dispatch
from t2.types import OTHER, Example

WAYS: dict[str, dict[str, Any]] = {
    "generate": {"mode": "generate"},
    "score, uncalibrated": {"calibrate": False},
    "score": {},
    "score, 2 examples": {"shots": 2},  # of the task
    "classifier": {"expert": "dispatch", "calibrate": False},
    "classifier, calibrated": {"expert": "dispatch"},
}


def load_dispatch(name: str) -> Dispatch:
    """A dispatch task with the tasks of its defaults list."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        task = instantiate(compose("train", overrides=[f"task={name}"]).task)
    assert isinstance(task, Dispatch), f"task={name} builds a {type(task).__name__}"
    return task


def build(model: str, dispatch: Path | None) -> PooledModel:
    """The model with the experts that ship, with another dispatch expert if one is given; random ones for `tiny`."""
    lm = tiny_model(context_length=4096) if model == "tiny" else load(model)  # solved examples make prompts long
    svf = inject_svf(lm)
    if model == "tiny":
        experts = random_experts(lm, svf, ("arithmetic", "reading", "compare", "dispatch"), 0.01)
        pool = ExpertPool({name: one for name, one in experts.items() if name != "dispatch"}, experts["dispatch"])
    else:
        pool = ExpertPool.load(ROOT / "experts" / "smollm2_135m")
    if dispatch is not None:
        pool = ExpertPool(pool.experts, Expert.load(Expert.find(dispatch)))
    return PooledModel(HFGenerator(lm, svf), pool)


def measure(strategy: PromptDispatch, model: PooledModel, examples: Sequence[Example]) -> dict[str, Any]:
    """Accuracy, seconds and confusion of one way of asking."""
    prompts = [Example(str(one.metadata["question"])) for one in examples]
    gold = [str(one.answer) for one in examples]
    choices: list[Choice] = []
    seconds = timed(lambda: choices.extend(strategy.choose(model, prompts)))()
    chosen = [str(choice.label) for choice in choices]
    correct = [a == b for a, b in zip(chosen, gold, strict=True)]
    accuracy = sum(correct) / len(correct)
    return {
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / len(correct)),
        "seconds": seconds,
        "confusion": confusion_matrix(gold, chosen, (*model.pool.domains, OTHER)),
        "by_task": by_task(examples, correct),
    }


def by_task(examples: Sequence[Example], correct: Sequence[bool]) -> dict[str, float]:
    """The accuracy on the prompts of each task."""
    grades: dict[str, list[bool]] = {}
    for one, good in zip(examples, correct, strict=True):
        grades.setdefault(str(one.metadata["task"]), []).append(good)
    return {task: sum(found) / len(found) for task, found in sorted(grades.items())}


def main(argv: Sequence[str]) -> None:
    """Measure, print a table, write the JSON."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--ways", type=names_of(WAYS, ";"), default=list(WAYS), help="separated by semicolons")
    made.add_argument("--task", default="dispatch", help="a file of conf/task")
    made.add_argument("--dispatch", type=Path, help="a dispatch expert or its run, instead of the one that ships")
    made.add_argument("--limit", type=count, help="the first so many prompts")
    args = made.parse_args(argv)
    task = load_dispatch(args.task)
    model, examples = build(args.model, args.dispatch), task.split("val")[: args.limit]
    systems = []
    for name in tqdm(args.ways, desc="ways", leave=False):
        strategy = PromptDispatch(**WAYS[name], examples=task if "shots" in WAYS[name] else None)
        systems.append({"name": name} | measure(strategy, model, examples))
    columns = ("accuracy", "stderr", "seconds")
    rows = [{"way of asking": one["name"]} | {key: one[key] for key in columns} | one["by_task"] for one in systems]
    finish(args, table(rows), {"labels": (*model.pool.domains, OTHER), "systems": systems})


if __name__ == "__main__":
    main(sys.argv[1:])
