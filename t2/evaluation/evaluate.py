"""How well a generator does on a task, and whether two generators differ by more than chance.

The score is the task's own, the very one that training rewards. Comparisons are paired, since every system of a
task answers the same examples. Nothing here knows what kind of system answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2.evaluation.report import Report
from t2.evaluation.scoring import complete_and_score
from t2.evaluation.statistics import majority
from t2.policy.generator import Generator
from t2.run.phases import Phases
from t2.tasks.base import DocumentedTask, Task
from t2.types import Example, Sampling


def evaluate(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, system: str, workers: int = 2
) -> Report:
    """Answer and score the examples, in their order; `workers` threads grade while others are being answered.

    With several samples per example the score is their mean. The `score` seconds are those that were still to be
    waited for when the last answer had been made.

    Raises:
        ValueError: there are no examples, or the task gave a score outside [0, 1].
    """
    if not examples:
        raise ValueError(f"No examples of task {task.name} to evaluate {system} on. Give at least one.")
    phases = Phases()
    scored = complete_and_score(generator, task, examples, sampling, workers=workers, phases=phases)
    for group in scored.completions:
        assert len(group) == sampling.samples, f"{len(group)} completions, expected {sampling.samples}"
    return Report(
        task=task.name,
        system=system,
        examples=tuple(examples),
        completions=tuple(group[0] for group in scored.completions),
        scores=tuple(sum(grade.score for grade in grades) / len(grades) for grades in scored.grades),
        majority=majority(examples),
        seconds=dict(phases.total_seconds),
        samples=scored.completions,
        grades=scored.grades,
    )


def describe_data(tasks: Sequence[Task]) -> dict[str, Any]:
    """The `data` part of `results.json`: what documented tasks say of the data they have read, by task."""
    return {task.name: dict(task.about()) for task in tasks if isinstance(task, DocumentedTask)}
