"""The task protocol: where questions come from and what counts as right.

A task is *one* scorer: `score` is the metric of an evaluation, the reward of a training step (before the
objective's map) and the fitness of a search, so the three cannot drift apart. A task knows nothing of models:
chat templates belong to `t2.models.loading`, reward maps to `t2.training.objectives`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from t2.types import Example, Grade

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class Task(Protocol):
    """A named set of questions with a scorer."""

    name: str
    max_new_tokens: int  # the answer budget unless the user gives another

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split, never empty; no question stands in two splits.

        Raises:
            ValueError: the split is empty or unknown, or its rows lack a column.
        """
        ...

    def score(self, example: Example, text: str) -> float:
        """How right `text` is as an answer to `example`, in [0, 1]. Never raises on any text."""
        ...


@runtime_checkable
class GradingTask(Task, Protocol):
    """A task that also says why an answer is wrong."""

    def grade(self, example: Example, text: str) -> Grade:
        """The score of `text` with its reason and what was judged; `score` gives the same score. Never raises."""
        ...


@runtime_checkable
class DocumentedTask(Task, Protocol):
    """A task that says which data its examples are of, for results that can be traced."""

    def about(self) -> Mapping[str, Any]:
        """The protocol, and source, version and fingerprint of the splits read so far; plain JSON values."""
        ...


def grade(task: Task, example: Example, text: str) -> Grade:
    """What the task says of an answer, with as much as it can say."""
    return task.grade(example, text) if isinstance(task, GradingTask) else Grade(task.score(example, text))


def check_scores(scores: Sequence[float], what: str) -> Tensor:
    """Scores as a float32 tensor (N,).

    Raises:
        ValueError: a score is NaN or outside [0, 1].
    """
    tensor = torch.tensor(scores, dtype=torch.float32)
    wrong = [index for index, score in enumerate(scores) if not 0.0 <= score <= 1.0]
    if wrong:
        raise ValueError(
            f"{what} gave the score {scores[wrong[0]]} to answer {wrong[0]}; a score lies in [0, 1] "
            "(the map to a reward is the objective's: reward_right, reward_wrong)."
        )
    return tensor
