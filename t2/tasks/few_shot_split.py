"""Few-shot adaptation data (paper §3.2 C, §4.3): a few examples of one split to adapt on, the others to evaluate on.

Wraps any task. The examples of one of its splits are shuffled as in the paper's code (SakanaAI/self-adaptive-llms,
commit 03a41ae, `FewShotTask`) and the first `shots` become `train`, the support set. Prompts and grading are those of
the wrapped task. The support set is not put into prompts here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, get_args

from pydantic import PositiveInt

from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, DocumentedTask, Split, Task, grade
from t2.tasks.splits import SplitRule, question_key
from t2.types import Example, Grade


class FewShotSplit:
    """Divides one split of a task into a support set (`train`), `val` and `test`."""

    def __init__(
        self,
        task: Task,
        split: Split = "test",
        shots: int = 10,
        seed: int = 0,
        splits: SplitRule = "t2",
        val_size: int | None = None,
        name: str | None = None,
        max_new_tokens: PositiveInt | None = None,
    ) -> None:
        """Configures the division. Nothing is read yet.

        Args:
            task: the task to wrap.
            split: its split to divide. A `limit` of the task changes which examples the seed selects.
            shots: size of the support set.
            seed: seed of the shuffle.
            splits: `t2` takes `val_size` examples after the support set as val and the rest as test, disjoint. `paper`
                takes all but the support set as val and the whole split, *including the support set*, as test.
            val_size: size of val with `splits="t2"`; None for `shots`.
            name: None for `few_shot_` and the name of the task.
            max_new_tokens: length limit of a completion; None for the task's.

        Raises:
            ValueError: `split` or `splits` is unknown, a size is below 1, or `val_size` is set with `splits="paper"`.
        """
        self.name = name or f"few_shot_{task.name}"
        check_choice(f"split of {self.name}", split, SPLITS)
        check_choice(f"splits of {self.name}", splits, get_args(SplitRule))
        if splits == "paper" and val_size is not None:
            raise ValueError(
                f"val_size of {self.name} is {val_size}, but splits=paper validates on all that is not support. "
                "Leave val_size out, or take splits=t2."
            )
        self._val_size = shots if val_size is None else val_size
        for what, size in (("shots", shots), ("val_size", self._val_size)):
            if size < 1:
                raise ValueError(f"{what} of {self.name} is {size}; allowed: at least 1.")
        self.max_new_tokens, self.form = max_new_tokens or task.max_new_tokens, task.form
        self._task, self._split, self._shots, self._seed, self._split_rule = task, split, shots, seed, splits

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the support set for `train`, and the other examples for `val` and `test`.

        Raises:
            ValueError: the split is unknown, or the wrapped one has too few examples.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        return self._splits[split]

    def score(self, example: Example, text: str) -> float:
        """Returns the wrapped task's score."""
        return self._task.score(example, text)

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the chances of the wrapped task."""
        return self._task.chance(example)

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the wrapped task's grade."""
        return grade(self._task, example, text)

    def about(self) -> dict[str, Any]:
        """Describes how the split is divided, and the wrapped task's data."""
        own = {"split_rule": self._split_rule, "split": self._split, "shots": self._shots, "seed": self._seed}
        inner = self._task.about() if isinstance(self._task, DocumentedTask) else {}
        return {**own, "task": {"name": self._task.name, **inner}}

    @cached_property
    def _splits(self) -> dict[Split, tuple[Example, ...]]:
        whole = self._task.split(self._split)
        shuffled = [whole[index] for index in few_shot_order(len(whole), self._seed)]
        support, others = shuffled[: self._shots], shuffled[self._shots :]
        if self._split_rule == "paper":
            splits = {"train": support, "val": others, "test": whole}
        else:
            rest = _without(others, support)
            val = rest[: self._val_size]
            splits = {"train": support, "val": val, "test": _without(rest[self._val_size :], val)}
        if len(support) < self._shots or not all(splits.values()):
            wanted = f"{self._shots} shots"
            if self._split_rule == "t2":
                wanted += f", {self._val_size} to validate and at least 1 to test, all with different questions"
            raise ValueError(
                f"{self.name} takes {wanted}; split {self._split!r} of {self._task.name} has {len(whole)} examples. "
                "Lower shots or val_size, or raise the task's limit."
            )
        return {split: tuple(splits[split]) for split in SPLITS}


def few_shot_order(n: int, seed: int) -> list[int]:
    """Shuffles 0 to n - 1 as `random.seed(seed); random.shuffle(indices)` does, leaving the global generator alone."""
    order = list(range(n))
    Random(seed).shuffle(order)
    return order


def _without(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """Returns the examples whose question is in none of `others`."""
    seen = {question_key(one) for one in others}
    return [one for one in examples if question_key(one) not in seen]
