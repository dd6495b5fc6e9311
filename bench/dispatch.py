"""Accuracy and seconds of pass 1 in naming the domain of a prompt, on a dispatch task or a set of benchmarks.

    python bench/dispatch.py [--task dispatch|dispatch_wide] [--split val|test] [--dispatch EXPERT] [--limit N]
    python bench/dispatch.py --benchmarks unseen [--ways "classifier;centroid"] [--centroids FILE] [--output FILE]

The ways of asking that conf/strategy offers, with and without calibration and solved examples, all on the same prompts,
which no expert was trained on and no vector is made of; of benchmarks the test split, of tasks that have a domain. Each
way is compared with the first, prompt by prompt. The majority class of a dispatch task is one label in four. The
accuracies by task show what is right in one task's wording and wrong in another's.
`--model tiny` has random weights and experts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import ROOT, count, finish, names_of, parser, table, timed
from models import inject_svf, load, random_experts
from tqdm import tqdm

from t2.adaptation.centroid import Centroid
from t2.adaptation.centroid_fit import make_centroids
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import Choice, PooledModel, Strategy
from t2.evaluation.benchmark import tasks_of
from t2.evaluation.statistics import compare_scores, confusion_matrix
from t2.experts.centroids import Centroids
from t2.experts.expert import Expert
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.tasks.dispatch import Dispatch, dispatch_example
from t2.types import OTHER, Example

WAYS: dict[str, dict[str, Any]] = {
    "generate": {"mode": "generate"},
    "score, uncalibrated": {"calibrate": False},
    "score": {},
    "score, 2 examples": {"shots": 2},  # of the task
    "classifier": {"expert": "dispatch", "calibrate": False},
    "classifier, calibrated": {"expert": "dispatch"},
}
CENTROIDS: dict[str, dict[str, Any]] = {"centroid": {}, "centroid, refuse 0.05": {"refuse": 0.05}}


WARM_UP = 8  # prompts that each way is asked before it is timed, so that none pays for what is made once


def load_benchmarks(name: str, limit: int | None) -> list[Example]:
    """The test prompts of each task of a set that has a domain there, `other` too, as those of a dispatch task."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = instantiate(compose("evaluate", overrides=[f"benchmarks={name}"]).benchmarks)
    return [
        dispatch_example(one.prompt, {}, answer=found["benchmark_domains"][task.name], task=task.name)
        for task in tasks_of(found)
        if found["benchmark_domains"].get(task.name) is not None
        for one in task.split("test")[:limit]
    ]


def load_dispatch(name: str) -> Dispatch:
    """A dispatch task with the tasks of its defaults list."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        task = instantiate(compose("train", overrides=[f"task={name}"]).task)
    assert isinstance(task, Dispatch), f"task={name} builds a {type(task).__name__}"
    return task


def build(model: str, dispatch: Path | None, centroids: Path | None, task: Dispatch) -> PooledModel:
    """The model with the experts that ship, or for `tiny` random ones and the centroids of the task.

    Dispatch expert and centroids are others where paths are given.
    """
    lm = tiny_model(context_length=4096) if model == "tiny" else load(model)  # solved examples make prompts long
    svf = inject_svf(lm)
    if model == "tiny":
        experts = random_experts(lm, svf, ("sums", "reading", "dispatch"), 0.01)
        pool = ExpertPool({name: one for name, one in experts.items() if name != "dispatch"}, experts["dispatch"])
    else:
        pool = ExpertPool.load(ROOT / "experts" / "smollm2_135m")
    if dispatch is not None:
        pool = replace(pool, dispatch=Expert.load(Expert.find(dispatch)))
    if centroids is not None:
        pool = replace(pool, centroids=Centroids.load(centroids))
    built = PooledModel(HFGenerator(lm, svf), pool)
    if model == "tiny" and centroids is None:
        built = replace(built, pool=replace(pool, centroids=make_centroids(built, task, layer=1)))
    return built


def strategy_of(way: str, task: Dispatch) -> Strategy:
    """The strategy of a way of asking; solved examples are those of the task."""
    if way in CENTROIDS:
        return Centroid(**CENTROIDS[way])
    return PromptDispatch(**WAYS[way], examples=task if "shots" in WAYS[way] else None)


def measure(strategy: Strategy, model: PooledModel, examples: Sequence[Example]) -> dict[str, Any]:
    """Accuracy, seconds and confusion of one way of asking."""
    prompts = [Example(str(one.metadata["question"])) for one in examples]
    gold = [str(one.answer) for one in examples]
    choices: list[Choice] = []
    strategy.choose(model, prompts[:WARM_UP])
    seconds = timed(lambda: choices.extend(strategy.choose(model, prompts)))()
    chosen = [str(choice.label) for choice in choices]
    correct = [a == b for a, b in zip(chosen, gold, strict=True)]
    accuracy = sum(correct) / len(correct)
    return {
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / len(correct)),
        "seconds": seconds,
        "correct": correct,
        "confusion": confusion_matrix(gold, chosen, (*model.pool.domains, OTHER)),
        "by_task": by_task(examples, correct),
    }


def by_task(examples: Sequence[Example], correct: Sequence[bool]) -> dict[str, float]:
    """The accuracy on the prompts of each task."""
    grades: dict[str, list[bool]] = {}
    for one, good in zip(examples, correct, strict=True):
        grades.setdefault(str(one.metadata["task"]), []).append(good)
    return {task: sum(found) / len(found) for task, found in sorted(grades.items())}


def row_of(way: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, with the paired difference to the first way and its 95 % interval."""
    paired = compare_scores(way["correct"], first["correct"])
    low, high = paired.ci95
    return {
        "way of asking": way["name"],
        **{key: way[key] for key in ("accuracy", "stderr", "seconds")},
        "to the first": "" if way is first else f"{paired.difference:+.3f} [{low:+.3f}, {high:+.3f}]",
        **way["by_task"],
    }


def main(argv: Sequence[str]) -> None:
    """Measure, print a table, write the JSON."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument(
        "--ways", type=names_of({**WAYS, **CENTROIDS}, ";"), default=list(WAYS), help="separated by semicolons"
    )
    made.add_argument("--task", default="dispatch", help="a file of conf/task")
    made.add_argument("--split", choices=("val", "test"), default="val", help="of the task")
    made.add_argument("--benchmarks", help="a file of conf/benchmarks, instead of the task")
    made.add_argument("--centroids", type=Path, help="a file of centroids or its run, instead of the one that ships")
    made.add_argument("--dispatch", type=Path, help="a dispatch expert or its run, instead of the one that ships")
    made.add_argument("--limit", type=count, help="the first so many prompts, of benchmarks for each task")
    args = made.parse_args(argv)
    task = load_dispatch(args.task)
    model, examples = build(args.model, args.dispatch, args.centroids, task), task.split(args.split)[: args.limit]
    if args.benchmarks is not None:
        examples = load_benchmarks(args.benchmarks, args.limit)
    systems = []
    for name in tqdm(args.ways, desc="ways", leave=False):
        systems.append({"name": name} | measure(strategy_of(name, task), model, examples))
    rows = [row_of(one, systems[0]) for one in systems]
    finish(args, table(rows), {"labels": (*model.pool.domains, OTHER), "systems": systems})


if __name__ == "__main__":
    main(sys.argv[1:])
