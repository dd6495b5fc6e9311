"""The task protocol: the examples of each split and the function that scores a completion.

A task has one scorer. `score` is the metric of an evaluation, the fitness of a search and, after the map of
`t2.training.objectives`, the reward of a training step. A task does not know the model: chat templates are applied in
`t2.models.loading`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from t2.tasks.form import Form
from t2.types import Example, Grade, Sampling

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class NoSplit(ValueError):
    """A task has no such split, as one whose questions are all for testing has no validation."""


@runtime_checkable
class Task(Protocol):
    """A named data set with a scorer, the form of its answers, and what guessing is worth."""

    name: str
    max_new_tokens: int  # the default length limit of a completion
    form: Form

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split. It is never empty and shares no question with another split.

        Raises:
            NoSplit: the task has no such split.
            ValueError: the split is empty or unknown, or its rows lack a column.
        """
        ...

    def score(self, example: Example, text: str) -> float:
        """Scores a completion of `example` in [0, 1]. Never raises, whatever the text."""
        ...

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the expected score of each way to guess that looks at the form of the question alone, by its name.

        The same names for every example of the task; none where no such guess has a chance. The most frequent answer is
        counted elsewhere (`t2.evaluation.null`).
        """
        ...


@runtime_checkable
class GradingTask(Protocol):
    """A task that also gives the reason for a score."""

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the score of `score` with its reason and the extracted answer. Never raises, whatever the text."""
        ...


@runtime_checkable
class DocumentedTask(Protocol):
    """A task that describes its data, so that results can be traced to it."""

    def about(self) -> Mapping[str, Any]:
        """Describes the options, source, version and fingerprint of the splits read so far, in plain JSON values."""
        ...


def check_task(task: Task) -> None:
    """Raise ValueError for a task that lacks a part of the protocol, such as its form or the chance of a guess."""
    missing = sorted(
        name for name in ("name", "max_new_tokens", "form", "split", "score", "chance") if not hasattr(task, name)
    )
    if missing:
        raise ValueError(
            f"{type(task).__name__} is no task: it lacks {', '.join(missing)}. Every task states the form of its "
            "answers (t2.tasks.form) and what guessing scores (chance); t2.tasks.base says how."
        )


def greedy(task: Task) -> Sampling:
    """Greedy decoding within the task's length limit, up to what ends its answers."""
    return Sampling(max_new_tokens=task.max_new_tokens, stop=task.form.stop)


def grade(task: Task, example: Example, text: str) -> Grade:
    """Grades a completion and checks that its score is a number in [0, 1].

    Args:
        task: the task that the example is from. The grade of a task without `grade` has a score alone.
        example: the example that was completed.
        text: the completion.

    Returns:
        The grade, its score converted to a `float`.

    Raises:
        ValueError: the task returned a score that is not a number, is NaN, or lies outside [0, 1].
    """
    given = task.grade(example, text) if isinstance(task, GradingTask) else Grade(task.score(example, text))
    if not isinstance(given.score, Real) or not 0.0 <= given.score <= 1.0:  # NaN fails the comparison
        raise ValueError(
            f"Task {task.name} scored {given.score!r} for the example {example.prompt[:80]!r}, "
            f"completion {text[:80]!r}; allowed: a number from 0 to 1. Correct the task's score()."
        )
    return replace(given, score=float(given.score))
