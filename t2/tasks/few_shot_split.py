"""Few-shot adaptation (paper §3.2 C, §4.3): a handful of a task's own examples to adapt with, the others to measure on.

Any task can be wrapped. One of its splits is shuffled as the paper's code shuffles it (SakanaAI/self-adaptive-llms,
commit 03a41ae, `FewShotTask`), and its first `shots` examples are the support, handed out as `train`. `official`
validates on all others and tests on the whole split, *the support included*, as the authors do. `fixed` takes the next
examples to validate and tests on what is left, so that no split shares a question with another and every system is
scored on the same remainder. Prompts and grading stay the wrapped task's. Shots are not put into the prompt here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, DocumentedTask, Split, Task, grade
from t2.tasks.splits import question_key
from t2.types import Example, Grade

ProtocolName = Literal["fixed", "official"]


class FewShotSplit:
    """A split of another task, cut into a small support set and the rest; right is what is right there."""

    def __init__(
        self,
        task: Task,
        split: Split = "test",
        shots: int = 10,
        seed: int = 0,
        protocol: ProtocolName = "fixed",
        val_size: int | None = None,
        name: str | None = None,
    ) -> None:
        """Say what is wrapped; nothing is read yet.

        Args:
            task: the task, whose own protocol decides on prompts and grading.
            split: which of its splits is cut up; a `limit` of the task changes what the seed draws.
            shots: examples of the support.
            seed: of the shuffle.
            protocol: `fixed` for splits that share nothing, `official` for the authors'.
            val_size: examples to validate on, for `fixed`; None: as many as `shots`.
            name: None: `few_shot_` and the task's name.

        Raises:
            ValueError: an unknown split or protocol, a size below 1, or a val_size for `official`.
        """
        self.name = name or f"few_shot_{task.name}"
        check_choice(f"split of {self.name}", split, SPLITS)
        check_choice(f"protocol of {self.name}", protocol, get_args(ProtocolName))
        if protocol == "official" and val_size is not None:
            raise ValueError(
                f"val_size of {self.name} is {val_size}, but protocol=official validates on all that is not support. "
                "Leave val_size out, or take protocol=fixed."
            )
        self._val_size = shots if val_size is None else val_size
        for what, size in (("shots", shots), ("val_size", self._val_size)):
            if size < 1:
                raise ValueError(f"{what} of {self.name} is {size}; allowed: at least 1.")
        self.max_new_tokens = task.max_new_tokens
        self._task, self._split, self._shots, self._seed, self._protocol = task, split, shots, seed, protocol

    def split(self, split: Split) -> Sequence[Example]:
        """The support for `train`, others for `val`; for `test` the remainder, or under `official` the whole split.

        Raises:
            ValueError: the split is unknown, or the wrapped one has too few examples.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        return self._splits[split]

    def score(self, example: Example, text: str) -> float:
        """The wrapped task's score."""
        return self._task.score(example, text)

    def grade(self, example: Example, text: str) -> Grade:
        """The wrapped task's grade."""
        return grade(self._task, example, text)

    def about(self) -> dict[str, Any]:
        """The protocol, how the support was drawn, and what the wrapped task says of its own data."""
        own = {"protocol": self._protocol, "split": self._split, "shots": self._shots, "seed": self._seed}
        inner = self._task.about() if isinstance(self._task, DocumentedTask) else {}
        return {**own, "task": {"name": self._task.name, **inner}}

    @cached_property
    def _splits(self) -> dict[Split, tuple[Example, ...]]:
        whole = self._task.split(self._split)
        shuffled = [whole[index] for index in few_shot_order(len(whole), self._seed)]
        support, others = shuffled[: self._shots], shuffled[self._shots :]
        if self._protocol == "official":
            splits = {"train": support, "val": others, "test": whole}
        else:
            rest = _new(others, support)
            val = rest[: self._val_size]
            splits = {"train": support, "val": val, "test": _new(rest[self._val_size :], val)}
        if len(support) < self._shots or not all(splits.values()):
            wanted = f"{self._shots} shots"
            if self._protocol == "fixed":
                wanted += f", {self._val_size} to validate and at least 1 to test, all with different questions"
            raise ValueError(
                f"{self.name} takes {wanted}; split {self._split!r} of {self._task.name} has {len(whole)} examples. "
                "Lower shots or val_size, or raise the task's limit."
            )
        return {split: tuple(splits[split]) for split in SPLITS}


def few_shot_order(n: int, seed: int) -> list[int]:
    """0 to n - 1 in the order of `random.seed(seed); random.shuffle(indices)`, without touching global state."""
    order = list(range(n))
    Random(seed).shuffle(order)
    return order


def _new(examples: Sequence[Example], earlier: Sequence[Example]) -> list[Example]:
    """Those of `examples` whose question is none of the earlier ones'."""
    seen = {question_key(one) for one in earlier}
    return [one for one in examples if question_key(one) not in seen]
