"""Whether the questions of an evaluation were seen before: in an expert's training or validation.

An expert file carries hashes of the prompts that it was trained and validated on; one of an older t2 carries none, and
what it has seen is unknown. What a language model has read in its own training cannot be known here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from t2.experts.expert import Expert
from t2.tasks.prompt_hash import prompt_hash
from t2.types import Example

log = logging.getLogger(__name__)

Seen = dict[str, dict[str, int | None]]  # by expert and task; None where it is unknown


def count_seen(experts: Mapping[str, Expert], examples: Mapping[str, Sequence[Example]]) -> Seen:
    """How many of each task's examples each expert has seen; None for an expert without prompt hashes."""
    asked = {task: [prompt_hash(one) for one in of] for task, of in examples.items()} if experts else {}
    found: Seen = {}
    for name, expert in experts.items():
        known = expert.metadata.prompts
        found[name] = {
            task: None if known is None else sum(one in known for one in hashes) for task, hashes in asked.items()
        }
    return found


def check_unseen(seen: Seen, *, allow: bool) -> None:
    """Log what is known.

    Raises:
        ValueError: an expert has seen some of the questions, unless `allow`.
    """
    unknown = [name for name, tasks in seen.items() if None in tasks.values()]
    if unknown:
        log.warning("Which questions %s has seen is unknown: the file carries no prompt hashes.", ", ".join(unknown))
    shared = [f"{name}: {count} of {task}" for name, tasks in seen.items() for task, count in tasks.items() if count]
    if not shared:
        return
    text = f"Experts were trained or validated on questions that are scored here ({'; '.join(shared)})"
    if not allow:
        raise ValueError(f"{text}. Score others (split=test, another task), or say allow_seen=true.")
    log.warning("%s, which allow_seen permits.", text)
