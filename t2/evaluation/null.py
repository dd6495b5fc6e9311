"""What guessing scores: the null that a system has to beat before it can be said to solve anything.

The best of the most frequent reference answer, the most frequent within each group of the questions, and the guesses
that a task names (`Task.chance`), each scored on the very examples. A base model below it does worse than by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from t2.evaluation.results import Null
from t2.evaluation.statistics import majority
from t2.tasks.base import Task
from t2.types import Example

MAJORITY = "most frequent answer"


def null_of(task: Task, examples: Sequence[Example]) -> Null:
    """The best guess over the examples, with its name and its expected score.

    Raises:
        ValueError: there are no examples.
    """
    chances = [task.chance(example) for example in examples]
    names = dict.fromkeys(name for chance in chances for name in chance)
    guesses = {name: fmean(chance.get(name, 0.0) for chance in chances) for name in names}
    if (share := majority(examples)) is not None:
        guesses[MAJORITY] = share
        guesses |= {f"{MAJORITY} by {kind}": of for kind, of in _by_group(examples).items()}
    best = max(guesses, key=lambda name: guesses[name], default=MAJORITY)
    return Null(best, guesses.get(best, 0.0))


def _by_group(examples: Sequence[Example]) -> dict[str, float]:
    """By kind of group, the accuracy of the most frequent answer of each group.

    Only kinds that all examples have, and none whose groups hold one answer each, as the digit of an image of a digit:
    that kind is the answer, which no question shows.
    """
    kinds = [set(example.metadata.get("groups", {})) for example in examples]
    found = {}
    for kind in sorted(set.intersection(*kinds)):
        groups: defaultdict[str, list[Example]] = defaultdict(list)
        for example in examples:
            groups[example.metadata["groups"][kind]].append(example)
        shares = {value: majority(group) or 0.0 for value, group in groups.items()}
        if min(shares.values()) < 1.0:
            found[kind] = sum(shares[value] * len(group) for value, group in groups.items()) / len(examples)
    return found
