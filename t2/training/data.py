"""The prompts of each training step.

The batch of step t is a function of (seed, t) alone: permutations of the train split, one after the other, cut into
pieces. A run that resumes at step t therefore sees what the uninterrupted one saw; no loader state is kept, but a hash
of the questions, for the same configuration may read other ones later (an edited file, another version of a data set).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from t2.models.language_model import LanguageModel
from t2.policy.lengths import check_prompts, check_references
from t2.tasks.base import Task
from t2.types import Example, Sampling


@dataclass(frozen=True)
class PromptSchedule:
    """The examples of each step; none comes twice before all came once."""

    examples: Sequence[Example]
    prompts_per_step: int
    seed: int

    def __post_init__(self) -> None:
        """Raise ValueError for a step without prompts, or one larger than the split."""
        if not 1 <= self.prompts_per_step <= len(self.examples):
            raise ValueError(
                f"prompts_per_step is {self.prompts_per_step}; allowed: 1 to the {len(self.examples)} examples of "
                "the train split."
            )

    def at(self, step: int) -> list[Example]:
        """The examples of one step (B,)."""
        size = len(self.examples)
        positions = range(step * self.prompts_per_step, (step + 1) * self.prompts_per_step)
        orders = {epoch: self._order(epoch) for epoch in {position // size for position in positions}}
        return [self.examples[orders[position // size][position % size]] for position in positions]

    def used(self, steps: int) -> dict[int, Example]:
        """The examples of the first `steps` steps by their number in the split, counted from 1."""
        prompts = steps * self.prompts_per_step
        indices = range(len(self.examples)) if prompts >= len(self.examples) else sorted(self._order(0)[:prompts])
        return {index + 1: self.examples[index] for index in indices}

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.examples), generator=generator).tolist()


def questions_hash(examples: Sequence[Example]) -> str:
    """The SHA-256 of what is asked and of the reference answers, in their order; of images only how many there are."""
    digest = hashlib.sha256()
    for one in examples:
        parts = (one.prompt, one.answer, one.system, one.response_prefix, one.shots, len(one.images))
        digest.update(repr(parts).encode())
    return digest.hexdigest()


class _Steps(IterableDataset[list[Example]]):
    def __init__(self, schedule: PromptSchedule, first: int, last: int) -> None:
        self.schedule, self.first, self.last = schedule, first, last

    def __iter__(self) -> Iterator[list[Example]]:
        return (self.schedule.at(step) for step in range(self.first, self.last))


class PromptData(L.LightningDataModule):
    """Feeds `prompts_per_step` examples of the task's train split to each of `steps` steps."""

    def __init__(self, task: Task, *, prompts_per_step: int, steps: int, seed: int) -> None:
        """Read the train split now, so that an empty one is an error before any model is loaded."""
        super().__init__()
        self.schedule = PromptSchedule(task.split("train"), prompts_per_step, seed)
        self.steps = steps
        self.task_name = task.name
        # Once, of the examples that the run has: a task may read its file at each call.
        self.questions = {"train": questions_hash(self.schedule.examples), "val": questions_hash(task.split("val"))}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has: a hash of each split that a run reads."""
        return {"questions": self.questions}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raise ValueError where the run that is resumed began with other questions."""
        if other := [split for split, known in state_dict["questions"].items() if self.questions[split] != known]:
            raise ValueError(
                f"The questions of {self.task_name} are not those that this run began with ({' and '.join(other)} "
                "differ): their file, the data set or the t2 that reads it is another. Resume with those it was "
                "started with, or start a new run."
            )

    def check_lengths(
        self, lm: LanguageModel, task: Task, sampling: Sampling, *, validated: int | None, answers: bool
    ) -> None:
        """Raise ValueError where a row that a step uses, or of the first `validated` of val, does not fit the model.

        Else the run would stop at the step that meets the row, and again whenever it is resumed. `answers`: training
        reads the reference answers, as SFT does, and samples nothing.
        """
        train = f"the train split of {task.name}"
        if answers:
            check_references(lm, self.schedule.used(self.steps), train)
        else:
            check_prompts(lm, self.schedule.used(self.steps), train, max_new_tokens=sampling.max_new_tokens)
        val = dict(enumerate(task.split("val")[:validated], start=1))
        check_prompts(lm, val, f"the val split of {task.name}", max_new_tokens=task.max_new_tokens)

    def train_dataloader(self) -> DataLoader[list[Example]]:
        """Batches from the trainer's present step on."""
        first = self.trainer.global_step if self.trainer is not None else 0
        return DataLoader(_Steps(self.schedule, first, self.steps), batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Do nothing: examples are text."""
        return batch
