"""Which domain a prompt belongs to: the task of the classification expert (paper §3.2 B), and how it is asked.

The questions are the prompts of other tasks, the answer is the label of the domain such a task stands for. A split
takes from the same split of those tasks alone, so that no test prompt is trained on (the authors' classification expert
is trained on GSM8K's and ARC-Challenge's test prompts), and as many from each label. `dispatch_example` is the one
place where the prompt is made: what is trained here and what a strategy asks in pass 1 are the same tokens, as long
as labels and descriptions are the same. Their order does not matter. Nothing here runs a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, permutations, zip_longest
from random import Random
from typing import Any

from t2.grading.answers import matching_word
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, DocumentedTask, Split, Task
from t2.tasks.splits import question_key
from t2.types import OTHER, Example, LazyImage

OTHER_DESCRIPTION = "anything else"
RESPONSE_PREFIX = (
    "Category:"  # begins the model's turn: without it a small model answers in forms of its own, "- reading: ..."
)
INSTRUCTION = "Which category does the text belong to? Reply with the name of the category only."
Tasks = Task | Sequence[Task] | Mapping[str, Task]  # names are for command lines; a task says its own
_LABEL = re.compile(r"[^\W_]([\w -]*\w)?")
_EARLIER: Mapping[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}


class Dispatch:
    """Name the domain of a prompt; right if the first label that the answer mentions is the one."""

    def __init__(
        self,
        domains: Mapping[str, Tasks],
        other: Tasks | None = None,
        descriptions: Mapping[str, str] | None = None,
        train_size: int = 60,
        val_size: int = 40,
        test_size: int = 100,
        seed: int = 0,
        name: str = "dispatch",
        max_new_tokens: int = 6,
    ) -> None:
        """What is told apart, and how much of it.

        Args:
            domains: label -> the task or tasks whose prompts belong to it, in a list or by any names; their share is
                equal while they last.
            other: tasks whose prompts no expert is for; None: `other` is offered as an answer and never right.
            descriptions: label -> one line; give the experts of these domains the same ones.
            train_size: prompts of each label; likewise `val_size` and `test_size`.

        Raises:
            ValueError: labels that cannot be told apart, a description of no label, or sizes below 1.
        """
        check_labels(domains)
        self.name, self.max_new_tokens = name, max_new_tokens
        self._tasks = {label: _as_list(tasks) for label, tasks in domains.items()}
        if other is not None:
            self._tasks[OTHER] = _as_list(other)
        if len(self._tasks) < 2 or not all(self._tasks.values()):
            got = {label: len(tasks) for label, tasks in self._tasks.items()}
            raise ValueError(f"{name} has tasks for {got or 'no label'}; give two labels or more, each a task or more.")
        for label in descriptions or {}:
            check_choice(f"a label in descriptions of {name}", label, domains)
        self._descriptions = {label: (descriptions or {}).get(label, "") for label in domains}
        self._sizes: Mapping[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        for split, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"{split}_size of {name} is {size}; allowed: at least 1 (prompts of each label).")
        self._seed = seed
        self._cache: dict[Split, tuple[Example, ...]] = {}

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split; `metadata["question"]` is the prompt itself, `metadata["task"]` where it is from.

        Raises:
            ValueError: an unknown split, fewer prompts than asked for, or one prompt under two labels.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split not in self._cache:
            labeled = [(label, one) for label, pile in self._piles(split).items() for one in pile]
            Random(f"{self._seed} {split}").shuffle(labeled)
            self._cache[split] = tuple(one for _, one in labeled)
        return self._cache[split]

    def score(self, example: Example, text: str) -> float:
        """1.0 if the label that the text names first is the gold, else 0.0."""
        return float(matching_word(text, (*self._descriptions, OTHER)) == example.answer)

    def about(self) -> dict[str, Any]:
        """What the tasks of each label say of their data."""
        return {
            label: {task.name: dict(task.about()) if isinstance(task, DocumentedTask) else {} for task in group}
            for label, group in self._tasks.items()
        }

    def _piles(self, split: Split) -> dict[str, list[Example]]:
        """Label -> as many examples as asked for."""
        tasks = [task for group in self._tasks.values() for task in group]
        earlier = {question_key(one) for task in tasks for other in _EARLIER[split] for one in task.split(other)}
        owner: dict[object, str] = {}
        piles = {}
        for label, group in self._tasks.items():
            random = Random(f"{self._seed} {split} {label}")
            fresh = []
            for task in group:
                kept = [
                    one
                    for one in task.split(split)
                    if self._is_new(one, label, owner) and question_key(one) not in earlier
                ]
                random.shuffle(kept)
                fresh.append([self._example(one, label, task.name) for one in kept])
            # One of each task in turn, so that a large task does not crowd out a small one.
            mixed = [one for one in chain.from_iterable(zip_longest(*fresh)) if one is not None]
            if len(mixed) < self._sizes[split]:
                raise ValueError(
                    f"{split}_size of {self.name} is {self._sizes[split]} prompts of each label, and the {split} split "
                    f"of {', '.join(task.name for task in group)} has {len(mixed)} for {label!r} that are in no "
                    f"other split. Lower {split}_size, or give {label!r} another task."
                )
            piles[label] = mixed[: self._sizes[split]]
        return piles

    def _is_new(self, one: Example, label: str, owner: dict[object, str]) -> bool:
        key = question_key(one)
        if owner.get(key, label) != label:
            raise ValueError(
                f"{self.name}: the question {one.prompt[:60]!r} is both in a task of {owner[key]!r} and in one of "
                f"{label!r}, so neither label is right. Take tasks that share no question."
            )
        new = key not in owner
        owner[key] = label
        return new

    def _example(self, one: Example, label: str, task: str) -> Example:
        return dispatch_example(one.prompt, self._descriptions, answer=label, task=task, images=one.images)


def dispatch_example(
    question: str,
    descriptions: Mapping[str, str],
    *,
    shots: Sequence[tuple[str, str]] = (),
    answer: str | None = None,
    task: str | None = None,
    images: tuple[LazyImage, ...] = (),
) -> Example:
    """The question which of the domains (label -> description), or `other`, a prompt belongs to; a label is the answer.

    The instruction comes first, so that all questions share its computation. `shots` are solved ones, (question, label)
    each. A system message or a response prefix that the prompt's own task would add is no part of it, its images are.

    Raises:
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("The prompt is empty, so it belongs to no domain. Give a question.")
    solved = [f"Text: {text}\n{RESPONSE_PREFIX}{answer_text(label)}" for text, label in shots]
    blocks = [f"{INSTRUCTION}\n\n{category_list(descriptions)}", *solved, f"Text: {question}"]
    metadata = {"question": question} | ({"task": task} if task is not None else {})
    return Example(
        "\n\n".join(blocks), answer=answer, response_prefix=RESPONSE_PREFIX, metadata=metadata, images=images
    )


def answer_text(label: str) -> str:
    """A label as the model writes it behind the response prefix."""
    return f" {label}"


def category_list(descriptions: Mapping[str, str]) -> str:
    """One line per label, sorted, so that the order of a pool is no part of the prompt, and `other` at the end."""
    entries = [*sorted(descriptions.items()), (OTHER, OTHER_DESCRIPTION)]
    # A description of several lines would look like several categories.
    lines = [f"- {label}: {' '.join(description.split())}".removesuffix(": ") for label, description in entries]
    return "\n".join(lines)


def check_labels(domains: Iterable[str]) -> None:
    """Raise ValueError unless the domains can be told apart, from each other and from `other`, in a model's answer."""
    labels = list(domains)
    for label in labels:
        if label.casefold() == OTHER:
            raise ValueError(
                f"{label!r} is among the domains; it is the label of what no expert is for, answered by the base "
                "model. Rename the domain, or give its tasks as `other`."
            )
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"The domain {label!r} cannot be a label: allowed are letters, digits, spaces, _ and -, with a letter "
                "or digit first and no space at the ends. Rename it."
            )
    for part, whole in permutations([*labels, OTHER], 2):
        if part.casefold() in whole.casefold():
            raise ValueError(
                f"The label {part!r} is part of the label {whole!r}, so an answer could be read as either. "
                "Rename one of them."
            )


def _as_list(tasks: Tasks) -> list[Task]:
    if isinstance(tasks, Mapping):
        return list(tasks.values())
    return [tasks] if isinstance(tasks, Task) else list(tasks)
