"""The dispatch task: name the domain of a prompt, to train the classification expert (paper §3.2 B).

Questions are the prompts of other tasks, and the gold answer is the label of the domain that their task belongs to. A
split uses the same split of those tasks only, so that no test prompt is trained on (the paper's expert is trained on
test prompts of GSM8K and ARC-Challenge), and has the same number of examples of each label.
`dispatch_example` makes the prompt here and in `t2.adaptation.dispatch`, so that both have the same tokens for the same
labels and descriptions, in whatever order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, permutations, zip_longest
from random import Random
from typing import Any

from pydantic import PositiveInt

from t2.grading.answers import matching_word
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, DocumentedTask, Split, Task
from t2.tasks.form import IN_PROMPT
from t2.tasks.prompt_hash import canonical_question
from t2.tasks.splits import EARLIER_SPLITS, question_key
from t2.types import OTHER, Example, LazyImage

OTHER_DESCRIPTION = "anything else"
RESPONSE_PREFIX = "Category:"  # without it a small model answers in other forms, such as "- reading: ..."
INSTRUCTION = "Which category does the text belong to? Reply with the name of the category only."
Tasks = Task | Sequence[Task] | Mapping[str, Task]  # keys are for overrides on the command line only
_LABEL = re.compile(r"[^\W_]([\w -]*\w)?")


class Dispatch:
    """Asks for the domain of a prompt; scores a completion 1.0 if the first label that it names is the gold answer."""

    form = IN_PROMPT

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
        max_new_tokens: PositiveInt = 6,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            domains: label -> the task or tasks of the domain, which contribute equally until one is used up.
            other: tasks that no expert is for; None: `other` is offered as an answer and never correct.
            descriptions: label -> one line, which should be that of the expert of the domain.
            train_size: examples of each label; likewise `val_size` and `test_size`.
            val_size: see `train_size`.
            test_size: see `train_size`.
            seed: seed of the sample and the order.
            name: name of the task.
            max_new_tokens: length limit of a completion.

        Raises:
            ValueError: two labels are ambiguous, a description has no label, a label has no task, or a size is below 1.
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
        """Returns the examples of a split; `metadata["question"]` is the prompt, `metadata["task"]` its task.

        Raises:
            ValueError: the split is unknown, there are fewer prompts than its size, or a prompt has two labels.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split not in self._cache:
            examples = [one for group in self._by_label(split).values() for one in group]
            Random(f"{self._seed} {split}").shuffle(examples)
            self._cache[split] = tuple(examples)
        return self._cache[split]

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the label that `text` names first is the gold answer, else 0.0."""
        return float(matching_word(text, (*self._descriptions, OTHER)) == example.answer)

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the score of choosing a label at random."""
        return {"random label": 1 / (len(self._descriptions) + 1)}

    def about(self) -> dict[str, Any]:
        """Returns the description of each task's data, by label and task name."""
        return {
            label: {task.name: dict(task.about()) if isinstance(task, DocumentedTask) else {} for task in group}
            for label, group in self._tasks.items()
        }

    def _by_label(self, split: Split) -> dict[str, list[Example]]:
        """Returns the examples of each label, as many as the size of the split."""
        tasks = [task for group in self._tasks.values() for task in group]
        earlier = {question_key(one) for task in tasks for other in EARLIER_SPLITS[split] for one in task.split(other)}
        owner: dict[object, str] = {}
        by_label = {}
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
            # Interleaved, so that a large task does not crowd out a small one.
            mixed = [one for one in chain.from_iterable(zip_longest(*fresh)) if one is not None]
            if len(mixed) < self._sizes[split]:
                raise ValueError(
                    f"{split}_size of {self.name} is {self._sizes[split]} prompts of each label, and the {split} split "
                    f"of {', '.join(task.name for task in group)} has {len(mixed)} for {label!r} that are in no "
                    f"other split. Lower {split}_size, or give {label!r} another task."
                )
            by_label[label] = mixed[: self._sizes[split]]
        return by_label

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
        made = dispatch_example(one.prompt, self._descriptions, answer=label, task=task, images=one.images)
        # Whatever text goes round the question, its hash is that of the question in its own task.
        return replace(made, metadata={**made.metadata, "canonical": canonical_question(one)})


def dispatch_example(
    question: str,
    descriptions: Mapping[str, str],
    *,
    shots: Sequence[tuple[str, str]] = (),
    answer: str | None = None,
    task: str | None = None,
    images: tuple[LazyImage, ...] = (),
) -> Example:
    """Builds the example that asks for the domain of a prompt.

    The instruction comes first, so that all examples share its key-value cache. The system message and the response
    prefix of the prompt's own task are left out.

    Args:
        question: the prompt.
        descriptions: label -> description of each domain; `other` is added.
        shots: solved examples for the instruction, (prompt, label) each.
        answer: the gold label.
        task: name of the prompt's task, for the metadata.
        images: images of the prompt.

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
    """Returns a label as the model writes it after the response prefix."""
    return f" {label}"


def category_list(descriptions: Mapping[str, str]) -> str:
    """Lists the labels, one per line, sorted so that the order of a pool does not matter, with `other` last."""
    entries = [*sorted(descriptions.items()), (OTHER, OTHER_DESCRIPTION)]
    # On one line each: a description of several lines would look like several categories.
    lines = [f"- {label}: {' '.join(description.split())}".removesuffix(": ") for label, description in entries]
    return "\n".join(lines)


def check_labels(domains: Iterable[str]) -> None:
    """Checks that a completion can name each domain unambiguously, and `other`.

    Raises:
        ValueError: a label is `other`, is not made of allowed characters, or contains another label.
    """
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
    return list(tasks) if isinstance(tasks, Sequence) else [tasks]
