"""Several tasks as one: their examples together, each graded by the task that it is from.

For training one expert on more than one thing. A split is the same split of every task, in turns, so that a long one
does not come after a short one; it ends with the longest. Nothing here weighs tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from t2.tasks.base import DocumentedTask, Split, Task, grade
from t2.types import Example, Grade


class TaskUnion:
    """The examples of all tasks; `metadata["task"]` names the one that grades."""

    def __init__(self, tasks: Mapping[str, Task], name: str = "mixed", max_new_tokens: int | None = None) -> None:
        """`tasks` by any names; `max_new_tokens` is the largest of theirs if not given.

        Raises:
            ValueError: no tasks, or two of one name.
        """
        parts = list(tasks.values())
        names = [task.name for task in parts]
        if not parts or len(set(names)) < len(names):
            raise ValueError(f"{name} is made of {names or 'no tasks'}; give one task or more, of different names.")
        self.name = name
        self.max_new_tokens = max_new_tokens or max(task.max_new_tokens for task in parts)
        self._tasks = {task.name: task for task in parts}

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of that split of every task, in turns."""
        parts = [
            [replace(one, metadata={**one.metadata, "task": task.name}) for one in task.split(split)]
            for task in self._tasks.values()
        ]
        return [one for one in chain.from_iterable(zip_longest(*parts)) if one is not None]

    def score(self, example: Example, text: str) -> float:
        """What the example's own task says."""
        return self.grade(example, text).score

    def grade(self, example: Example, text: str) -> Grade:
        """What the example's own task says."""
        return grade(self._tasks[example.metadata["task"]], example, text)

    def about(self) -> dict[str, Any]:
        """What each task says of its data."""
        return {name: dict(task.about()) for name, task in self._tasks.items() if isinstance(task, DocumentedTask)}
