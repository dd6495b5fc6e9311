"""Statistics of scores: majority baseline, paired comparison, confusion matrices, pass@k.

Nothing here knows a system.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2.evaluation.benchmark import _listed
from t2.types import Example


@dataclass(frozen=True)
class Paired:
    """Two systems on the same examples: mean difference, its 95 % interval, a two-sided p-value."""

    difference: float
    ci95: tuple[float, float]
    p_value: float


def majority(examples: Sequence[Example]) -> float | None:
    """Accuracy of always giving the most frequent reference answer; None where an answer is None.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("The majority answer of no examples is undefined. Give at least one.")
    if any(example.answer is None for example in examples):
        return None
    counts = Counter(example.answer for example in examples)
    return max(counts.values()) / len(examples)


def compare_scores(scores: Sequence[float], base: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """`compare` for scores (n,) that are known to be of the same examples, in the same order.

    Raises:
        ValueError: the lengths differ, or `resamples` is below 1.
    """
    if len(scores) != len(base):
        raise ValueError(f"{len(scores)} scores against {len(base)}; a paired comparison needs as many.")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; allowed: at least 1.")
    differences = torch.tensor(scores, dtype=torch.float64) - torch.tensor(base, dtype=torch.float64)
    low, high = _bootstrap_ci95(differences, resamples, seed)
    if set(scores) | set(base) <= {0.0, 1.0}:
        p_value = _mcnemar(wins=int((differences > 0).sum()), losses=int((differences < 0).sum()))
    else:
        p_value = _sign_flip(differences, resamples, seed)
    return Paired(difference=differences.mean().item(), ci95=(low, high), p_value=p_value)


def _bootstrap_ci95(differences: Tensor, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `differences` (n,); Efron and Tibshirani 1993, chapter 13."""
    rng = torch.Generator().manual_seed(seed)
    n = len(differences)
    means = torch.stack(  # one at a time: all indices at once are resamples x n numbers
        [differences[torch.randint(n, (n,), generator=rng)].mean() for _ in range(resamples)]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p-value: `wins` of the discordant pairs, binomial with probability 1/2."""
    n = wins + losses
    term = tail = 1  # in exact integers: term is n over i, tail their sum up to min(wins, losses)
    for i in range(min(wins, losses)):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def _sign_flip(differences: Tensor, resamples: int, seed: int) -> float:
    """Two-sided p-value of the mean under random signs; the +1s are those of Phipson and Smyth 2010."""
    rng = torch.Generator().manual_seed(seed)
    # Less a rounding error, so that ties in exact arithmetic stay ties in floats.
    observed = differences.sum().abs() - 1e-12 * differences.abs().sum()
    signs = (torch.randint(0, 2, differences.shape, generator=rng) * 2 - 1 for _ in range(resamples))
    extreme = sum(bool((differences * sign).sum().abs() >= observed) for sign in signs)
    return (extreme + 1) / (resamples + 1)


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


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate in [0, 1] from `correct` of `samples` answers to one problem.

    Raises:
        ValueError: there are fewer samples than k, or counts that no run can give.
    """
    if samples < 1 or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@k got samples={samples} and correct={correct}; allowed: 1 sample or more, of which 0 to all correct."
        )
    if not 1 <= k <= samples:
        raise ValueError(
            f"pass@k got k={k} with samples={samples}; allowed: 1 to {samples}. Take a smaller k, or sample more "
            "answers per problem."
        )
    if samples - correct < k:
        return 1.0  # every draw holds a right one
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))
