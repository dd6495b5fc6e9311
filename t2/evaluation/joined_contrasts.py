"""Contrasts over joined runs: who named them, and what they are over seeds and questions.

The family is every contrast that a run named, and those that are asked for now, on every task where both systems are;
its p-values are corrected by Holm. One that no run named was named after the runs, and is marked: its p-value tests
nothing that was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from t2.evaluation.joining import Joined
from t2.evaluation.statistics import Paired, compare_runs, holm
from t2.evaluation.system_names import parse_contrast
from t2.run.messages import did_you_mean

AFTER = "after the runs"


@dataclass(frozen=True)
class JoinedContrast:
    """The first system minus the second on one task, over `seeds` pairs of rows; `named` says by which runs."""

    contrast: str
    task: str
    named: str
    seeds: int
    paired: Paired
    p_holm: float = 1.0


def families(joined: Joined) -> dict[str, tuple[str, ...]]:
    """The contrasts that each run named."""
    return {
        name: tuple(dict.fromkeys(one.contrast for one in results.contrasts or ()))
        for name, results in joined.runs.items()
    }


def join_contrasts(joined: Joined, asked: Sequence[str] = ()) -> tuple[list[JoinedContrast], list[str]]:
    """The family by task, and notes on how it came about: where it differs between runs or was named after them.

    Raises:
        ValueError: a contrast is not written as two systems, or there is no task on which both were scored.
    """
    named_by = families(joined)
    family = list(dict.fromkeys([*(text for of in named_by.values() for text in of), *asked]))
    notes, found = _notes(named_by, family), []
    for text in family:
        first, second = parse_contrast(text)
        tasks = [task for task in joined.scores if joined.draws(task, first) and joined.draws(task, second)]
        if not tasks:
            raise ValueError(_not_scored(joined, text, first, second))
        if left := [task for task in joined.scores if task not in tasks]:
            notes.append(f"{text}: not on {', '.join(left)}, where one of the two was not scored.")
        for task in tasks:
            rows, others = joined.pairs(task, first, second)
            found.append(JoinedContrast(text, task, _named(text, named_by), len(rows), compare_runs(rows, others)))
    order = {task: number for number, task in enumerate(joined.scores)}
    found.sort(key=lambda one: order[one.task])
    corrected = holm([one.paired.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)], notes


def _named(text: str, named_by: dict[str, tuple[str, ...]]) -> str:
    names = [name for name, of in named_by.items() if text in of]
    if not names:
        return AFTER
    return "by every run" if len(names) == len(named_by) else f"by {', '.join(names)}"


def _notes(named_by: dict[str, tuple[str, ...]], family: Sequence[str]) -> list[str]:
    notes = []
    after = [text for text in family if _named(text, named_by) == AFTER]
    if after:
        notes.append(
            f"Named after the runs, when their results could be known: {'; '.join(after)}. No run has them among its "
            "contrasts."
        )
    if len({frozenset(of) for of in named_by.values()}) > 1:
        told = "; ".join(f"{name}: {', '.join(of) or 'none'}" for name, of in named_by.items())
        notes.append(f"The runs named different families of contrasts ({told}). The family here is all of them.")
    return notes


def _not_scored(joined: Joined, text: str, first: str, second: str) -> str:
    known = list(dict.fromkeys(name for systems in joined.scores.values() for name in systems))
    missing = [name for name in (first, second) if not any(joined.draws(task, name) for task in joined.scores)]
    if not missing:
        return f"The contrast {text!r}: no task has both systems, so that they answered no question in common."
    hint = did_you_mean(missing[0], known)
    return f"The contrast {text!r} names {missing[0]!r}, which no run has scored; there are {', '.join(known)}.{hint}"
