"""Whether the questions of an evaluation were seen before: in training or validation, or as solved examples.

Expert files carry hashes of the prompts that they were trained and validated on, dispatch experts and centroids too;
one of an older t2 carries none, and what it has seen is unknown. Solved examples are those that a strategy is fitted to
(`support`) and those in the prompt of `base+shots`. What a language model has read in its own training cannot be known
here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from t2.adaptation.strategy import Strategy, TrainedStrategy
from t2.evaluation.form_controls import SHOTS
from t2.evaluation.results import Seen
from t2.experts.lora_expert import LoraExpert
from t2.experts.pool import ExpertPool
from t2.experts.trained import Trained
from t2.tasks.base import Task
from t2.tasks.prompt_hash import prompt_hash, prompt_hashes
from t2.types import Example

log = logging.getLogger(__name__)

Sets = Mapping[str, Sequence[Example]]  # by task
SUPPORT = "support"


def count_seen(
    examples: Sets,
    *,
    experts: Mapping[str, Trained | LoraExpert],
    tasks: Sequence[Task] = (),
    strategies: Iterable[Strategy] = (),
    pool: ExpertPool | None = None,
    support: Sets | None = None,
    shown: Sets | None = None,
) -> Seen:
    """How many of each task's scored examples were seen before, and by what; None where there are no prompt hashes.

    Args:
        examples: those that are scored, by task.
        experts: by system name.
        tasks: of the scored examples.
        strategies: which may choose by a dispatch expert or by centroids of the pool.
        pool: theirs.
        support: solved examples that a strategy is fitted to.
        shown: solved examples in a prompt.
    """
    asked = {task: [prompt_hash(one) for one in of] for task, of in examples.items()}
    known: dict[str, dict[str, frozenset[str] | None]] = {
        name: dict.fromkeys(examples, expert.metadata.prompts) for name, expert in experts.items()
    }
    for strategy in strategies:
        if pool is not None and isinstance(strategy, TrainedStrategy):
            for task in tasks:
                for name, prompts in strategy.trained_on(pool, task).items():
                    known.setdefault(name, {})[task.name] = prompts
    for name, sets in ((SUPPORT, support), (SHOTS, shown)):
        for where, solved in (sets or {}).items():
            if solved:
                known.setdefault(name, {})[where] = frozenset(prompt_hashes(solved))
    return {name: {task: _count(asked[task], of) for task, of in by_task.items()} for name, by_task in known.items()}


def _count(hashes: Sequence[str], known: frozenset[str] | None) -> int | None:
    return None if known is None else sum(one in known for one in hashes)


def check_unseen(seen: Seen, *, allow: bool) -> None:
    """Log what is known.

    Raises:
        ValueError: some of the questions were seen before, unless `allow`.
    """
    unknown = [name for name, tasks in seen.items() if None in tasks.values()]
    if unknown:
        log.warning("Which questions %s has seen is unknown: the file carries no prompt hashes.", ", ".join(unknown))
    shared = [f"{name}: {count} of {task}" for name, tasks in seen.items() for task, count in tasks.items() if count]
    if not shared:
        return
    text = f"Questions that are scored here were trained or validated on, or are solved examples ({'; '.join(shared)})"
    if not allow:
        raise ValueError(f"{text}. Score others (split=test, another task), or say allow_seen=true.")
    log.warning("%s, which allow_seen permits.", text)
