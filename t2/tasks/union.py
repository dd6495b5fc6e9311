"""The union of several tasks, to train one expert on all of them.

A split interleaves the same split of every task, one example of each in turn, until the longest is used up. Tasks are
not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from pydantic import PositiveInt

from t2.tasks.base import DocumentedTask, Split, Task, grade
from t2.tasks.form import IN_PROMPT
from t2.types import Example, Grade


class TaskUnion:
    """Combines the examples of several tasks; each completion is graded by the task of its example."""

    def __init__(
        self, tasks: Mapping[str, Task], name: str = "mixed", max_new_tokens: PositiveInt | None = None
    ) -> None:
        """Combines `tasks`, whose keys are ignored.

        Args:
            tasks: the tasks, of different names.
            name: name of the union.
            max_new_tokens: None for the largest of the tasks.

        Raises:
            ValueError: there are no tasks, two have the same name, or one is a union itself.
        """
        parts = list(tasks.values())
        names = [task.name for task in parts]
        if not parts or len(set(names)) < len(names):
            raise ValueError(f"{name} is made of {names or 'no tasks'}; give one task or more, of different names.")
        if inner := [name for name, task in zip(names, parts, strict=True) if isinstance(task, TaskUnion)]:
            raise ValueError(
                f"{name} is made of {inner}, which are unions themselves; give the tasks they are made of."
            )
        self.name = name
        self.max_new_tokens = max_new_tokens or max(task.max_new_tokens for task in parts)
        self._tasks = {task.name: task for task in parts}
        shared = (one for one in parts[0].form.stop if all(one in task.form.stop for task in parts))
        self.form = replace(IN_PROMPT, stop=tuple(shared))  # what ends the answer of one may be within another's

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the interleaved examples of a split; `metadata["task"]` is the name of an example's task."""
        parts = [
            [replace(one, metadata={**one.metadata, "task": task.name}) for one in task.split(split)]
            for task in self._tasks.values()
        ]
        return [one for one in chain.from_iterable(zip_longest(*parts)) if one is not None]

    def score(self, example: Example, text: str) -> float:
        """Returns the score of the example's own task."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the chances of the example's own task."""
        return self._tasks[example.metadata["task"]].chance(example)

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the grade of the example's own task."""
        return grade(self._tasks[example.metadata["task"]], example, text)

    def about(self) -> dict[str, Any]:
        """Returns each task's description of its data, by task name."""
        return {name: dict(task.about()) for name, task in self._tasks.items() if isinstance(task, DocumentedTask)}
