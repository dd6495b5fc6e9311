"""What guessing scores: the null that a system has to beat before it can be said to solve anything.

The best of the most frequent reference answer, the most frequent within each group of the questions, and the guesses
that a task names (`Task.chance`), each scored on the very examples. A base model below it does worse than by chance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from t2.evaluation.results import Null
from t2.evaluation.statistics import majority
from t2.tasks.base import Task
from t2.types import Example

MAJORITY = "most frequent answer"
TRIED = 10  # of the most frequent answers, where several are right in part


def null_of(task: Task, examples: Sequence[Example]) -> Null:
    """The best guess over the examples, with its name and its expected score.

    Raises:
        ValueError: there are no examples.
    """
    chances = [task.chance(example) for example in examples]
    names = dict.fromkeys(name for chance in chances for name in chance)
    guesses = {name: fmean(chance.get(name, 0.0) for chance in chances) for name in names}
    if (share := _of_one_answer(task, examples)) is not None:
        guesses[MAJORITY] = share
        guesses |= {f"{MAJORITY} by {kind}": of for kind, of in _by_group(task, examples).items()}
    best = max(guesses, key=lambda name: guesses[name], default=MAJORITY)
    return Null(best, guesses.get(best, 0.0))


def _of_one_answer(task: Task, examples: Sequence[Example]) -> float | None:
    """The score of always giving the best of the most frequent answers; None where an answer is None.

    Of examples with one answer each that is the share of the most frequent. Of those with several
    (`metadata["answers"]`), which are graded softly, the most frequent are scored as a completion is.
    """
    if not all("answers" in example.metadata for example in examples):
        return majority(examples)
    counts = Counter(answer for example in examples for answer in example.metadata["answers"])
    return max(fmean(task.score(one, guess) for one in examples) for guess, _ in counts.most_common(TRIED))


def _by_group(task: Task, examples: Sequence[Example]) -> dict[str, float]:
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
        shares = {value: _of_one_answer(task, group) or 0.0 for value, group in groups.items()}
        if min(shares.values()) < 1.0:
            found[kind] = sum(_of_the_others(task, group) * len(group) for group in groups.values()) / len(examples)
    return found


def _of_the_others(task: Task, group: Sequence[Example]) -> float:
    """The accuracy of giving each example the most frequent answer of the others of its group, the first of equals.

    With its own among them, a group of one would be guessed right whatever its answer is.
    """
    if all("answers" in one.metadata for one in group):
        return _of_one_answer(task, group) or 0.0
    counts = Counter(one.answer for one in group)
    return fmean(
        max(counts, key=lambda known: counts[known] - (known == one.answer)) == one.answer and counts[one.answer] > 1
        for one in group
    )
