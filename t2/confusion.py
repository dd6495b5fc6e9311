"""Which expert was chosen for what: confusion matrices of the dispatching strategies (paper, Figure 6).

Rows are the true domains of the prompts, columns the labels that were chosen, both in the order of the labels: the
pool's domains and `other`. Pure counting; drawing is `t2.analysis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

Counts = tuple[tuple[int, ...], ...]  # (L, L) for L labels


def confusion_matrix(true: Sequence[str], chosen: Sequence[str], labels: Sequence[str]) -> Counts:
    """How often each label was chosen (columns) for each true one (rows), (L, L).

    Raises:
        ValueError: as many labels were not chosen as there are true ones, or one is none of `labels`.
    """
    if len(true) != len(chosen):
        raise ValueError(f"{len(true)} true domains for {len(chosen)} chosen ones; a confusion matrix needs as many.")
    place = {label: index for index, label in enumerate(labels)}
    if len(place) != len(labels):
        raise ValueError(f"The labels {', '.join(labels)} name one twice.")
    counts = [[0] * len(labels) for _ in labels]
    for row, column in zip(true, chosen, strict=True):
        for label in (row, column):
            if label not in place:
                raise ValueError(f"{label!r} is no label; allowed: {_listed(label, labels)}")
        counts[place[row]][place[column]] += 1
    return tuple(tuple(row) for row in counts)


def row_shares(counts: Sequence[Sequence[int]]) -> tuple[tuple[float | None, ...], ...]:
    """Each row divided by its sum (L, L); None in the rows of domains that no prompt was of."""
    return tuple(tuple(count / sum(row) if sum(row) else None for count in row) for row in counts)


def dispatch_accuracy(counts: Sequence[Sequence[int]]) -> float | None:
    """Share of the prompts for which the true domain was chosen; None where there were no prompts."""
    total = sum(map(sum, counts))
    return sum(row[index] for index, row in enumerate(counts)) / total if total else None


def true_domains(
    tasks: Sequence[str], domains: Mapping[str, str | None] | None, labels: Sequence[str]
) -> dict[str, str]:
    """Task -> its true domain, of the tasks that have one; empty where no `domains` are given.

    A task mapped to None is left out on purpose; one that the mapping does not mention was forgotten.

    Raises:
        ValueError: a benchmark without a domain, or a domain that is no label.
    """
    if domains is None:
        return {}
    found = {}
    for task in tasks:
        if task not in domains:
            near = get_close_matches(task, domains, n=1)
            hint = f" Did you mean it by {near[0]!r}?" if near else ""
            raise ValueError(
                f"{task!r} is a benchmark without a domain: benchmark_domains has {', '.join(domains)}.{hint} "
                f"Add benchmark_domains.{task} with one of {', '.join(labels)}, or null to leave it out of the matrix."
            )
        domain = domains[task]
        if domain is None:
            continue
        if domain not in labels:
            raise ValueError(f"benchmark_domains.{task} is {domain!r}; allowed: {_listed(domain, labels)}")
        found[task] = domain
    return found


def _listed(got: str, labels: Sequence[str]) -> str:
    near = get_close_matches(got, labels, n=1)
    return f"{', '.join(labels)}." + (f" Did you mean {near[0]!r}?" if near else "")
