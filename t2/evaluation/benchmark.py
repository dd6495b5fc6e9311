"""What systems are compared on: tasks, their domains, and support examples that are in nobody's test set."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from t2.adaptation.few_shot import check_disjoint
from t2.experts.pool import ExpertPool
from t2.tasks.base import Split, Task
from t2.types import OTHER, Example


def true_domains(
    tasks: Sequence[str], domains: Mapping[str, str | None] | None, labels: Sequence[str]
) -> dict[str, str]:
    """Task -> its true domain, of the tasks that have one; empty where no `domains` are given.

    A task mapped to None is left out on purpose; one that the mapping does not mention was forgotten.

    Raises:
        ValueError: a benchmark without a domain, or a domain that is no label.
    """
    if domains is None:
        return {}
    found = {}
    for task in tasks:
        if task not in domains:
            near = get_close_matches(task, domains, n=1)
            hint = f" Did you mean it by {near[0]!r}?" if near else ""
            raise ValueError(
                f"{task!r} is a benchmark without a domain: benchmark_domains has {', '.join(domains)}.{hint} "
                f"Add benchmark_domains.{task} with one of {', '.join(labels)}, or null to leave it out of the matrix."
            )
        domain = domains[task]
        if domain is None:
            continue
        if domain not in labels:
            raise ValueError(f"benchmark_domains.{task} is {domain!r}; allowed: {_listed(domain, labels)}")
        found[task] = domain
    return found


def _listed(got: str, labels: Sequence[str]) -> str:
    near = get_close_matches(got, labels, n=1)
    return f"{', '.join(labels)}." + (f" Did you mean {near[0]!r}?" if near else "")


def choose_support(
    task: Task, *, shots: int, split: Split, seed: int, scored: Sequence[Example]
) -> tuple[Example, ...]:
    """`shots` solved examples in an order that the seed decides, so that fewer shots are the first of more.

    Raises:
        ValueError: the test split, more shots than examples, or a support example among the `scored` ones.
    """
    if shots < 0:
        raise ValueError(f"shots is {shots}; allowed: 0 (no support examples) and above.")
    if split == "test":
        raise ValueError("support_split=test: support examples are in nobody's test set. Use train or val.")
    if shots == 0:
        return ()
    examples = list(task.split(split))
    if shots > len(examples):
        raise ValueError(
            f"shots={shots}, and the {split} split of {task.name} has {len(examples)} examples. Lower shots, or give "
            "the task a larger split."
        )
    random.Random(f"{seed} {task.name}").shuffle(examples)
    support = tuple(examples[:shots])
    check_disjoint(support, scored)
    return support


def labels_of(pool: ExpertPool) -> tuple[str, ...]:
    """What a dispatching strategy chooses from: the pool's domains, and `other` for the base."""
    return (*pool.domains, OTHER)


def tasks_of(benchmarks: Mapping[str, Any]) -> list[Task]:
    """The tasks of a benchmark set; its `benchmark_domains` is none."""
    return [task for name, task in benchmarks.items() if name != "benchmark_domains"]
