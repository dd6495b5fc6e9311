"""Solved examples of a task that an evaluation draws: those that strategies are fitted to, and those that prompts show.

Neither are among the examples that are scored.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from t2.adaptation.few_shot import check_disjoint
from t2.tasks.base import NoSplit, Split, Task
from t2.tasks.splits import question_key
from t2.types import Example

log = logging.getLogger(__name__)


def choose_support(
    task: Task, *, shots: int, split: Split, seed: int, scored: Sequence[Example]
) -> tuple[Example, ...]:
    """The first `shots` solved examples of a split in an order that the seed decides; fewer are the first of more.

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


def choose_shown(task: Task, *, shots: int, seed: int, scored: Sequence[Example]) -> tuple[Example, ...]:
    """The solved training examples that `base+shots` shows, in an order that the seed decides, at most `shots`.

    Scored ones are left out, and the log says where none is left. A task with images, or without a training split, has
    none.

    Raises:
        ValueError, OSError: the task has a training split, and it cannot be read.
    """
    if not shots or any(one.images for one in scored[:1]):
        return ()
    try:
        known = list(task.split("train"))
    except NoSplit as error:
        log.info("%s: base+shots is left out, since there are no solved examples to show: %s", task.name, error)
        return ()
    random.Random(f"{seed} {task.name}").shuffle(known)
    asked = {question_key(one) for one in scored}  # those of split=train, and of splits=paper
    others = [one for one in known if question_key(one) not in asked]
    if not others:
        log.warning("%s: base+shots is left out, since all of its solved examples are scored.", task.name)
    return tuple(others[:shots])
