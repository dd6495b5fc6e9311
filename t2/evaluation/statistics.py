"""Statistics of scores: majority baseline, paired comparison, confusion matrices, pass@k.

Tests and intervals are those of scipy.stats. Nothing here knows a system.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from t2.run.messages import did_you_mean
from t2.types import Example

RESAMPLED_AT_ONCE = 1 << 18  # numbers; bounds the memory of resampling, and stays in the processor's cache

Values = np.ndarray[Any, np.dtype[np.float64]]
Counts = tuple[tuple[int, ...], ...]  # (L, L) for L labels


@dataclass(frozen=True)
class Paired:
    """Two systems on the same examples: mean difference, its 95 % interval, a two-sided p-value."""

    difference: float
    ci95: tuple[float, float]
    p_value: float


def standard_error(scores: Sequence[float]) -> float:
    """Standard error of the mean, from the sample variance; nan for a single score."""
    return float(stats.sem(scores)) if len(scores) > 1 else math.nan


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
    """Mean of `scores` minus mean of `base`, both (n,) over the same examples in the same order.

    The interval is the percentile bootstrap over examples. The p-value is McNemar's exact test where all scores are 0
    or 1, otherwise a sign-flip test, which is never below 1 / (resamples + 1).

    Raises:
        ValueError: the lengths differ, or `resamples` is below 1.
    """
    _check_paired(scores, base)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; allowed: at least 1.")
    differences = np.asarray(scores, np.float64) - np.asarray(base, np.float64)
    if set(scores) | set(base) <= {0.0, 1.0}:
        p_value = _mcnemar(wins=int((differences > 0).sum()), losses=int((differences < 0).sum()))
    else:
        p_value = _sign_flip(differences, resamples, seed)
    return Paired(float(differences.mean()), _bootstrap_ci95(differences, resamples, seed), p_value)


def compare_runs(runs: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Paired:
    """Mean of several runs' scores (S, n) minus that of `others` (S, n), over the same examples in the same order.

    Another seed would give other scores on the same questions, and other questions other scores of the same seeds, so
    that both count as drawn (two crossed random effects; Cornfield and Tukey 1956): the variance of the mean is that of
    the runs' means plus that of the questions' less what both hold of the rest, and below none of the three. Interval
    and p-value are of Student's t with the degrees of freedom of Satterthwaite (1946): about S - 1 where runs differ
    most, about n - 1 where questions do. Resampling a few runs would give too narrow intervals. A single run, and
    scores that all differ by as much, are compared as by `compare_scores`.

    Raises:
        ValueError: there is no run, not as many others, or one with another number of scores.
    """
    if not runs or len(runs) != len(others):
        raise ValueError(f"{len(runs)} runs against {len(others)}; a comparison needs one or more, and as many.")
    for scores, base in zip(runs, others, strict=True):
        _check_paired(scores, base)
    differences = np.asarray(runs, np.float64) - np.asarray(others, np.float64)  # (S, n)
    if len(runs) == 1 or not np.ptp(differences):
        return compare_scores(runs[0], others[0])
    variance, freedom = _crossed_variance(differences)
    mean, error = float(differences.mean()), math.sqrt(variance)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Paired(mean, (mean - reach, mean + reach), 2 * float(stats.t.sf(abs(mean) / error, freedom)))


def _check_paired(scores: Sequence[float], base: Sequence[float]) -> None:
    if len(scores) != len(base):
        raise ValueError(f"{len(scores)} scores against {len(base)}; a paired comparison needs as many.")


def _crossed_variance(differences: Values) -> tuple[float, float]:
    """The variance of the mean of (S, n) values, S runs and n questions, not all equal, and its degrees of freedom."""
    s, n = differences.shape
    by_run, by_question = differences.mean(axis=1), differences.mean(axis=0)  # (S,), (n,)
    of_runs = float(by_run.var(ddof=1)) / s
    if n == 1:
        return of_runs, s - 1
    of_questions = float(by_question.var(ddof=1)) / n
    rest = differences - by_run[:, None] - by_question + differences.mean()
    of_rest = float((rest**2).sum()) / ((s - 1) * (n - 1)) / (s * n)
    variance = max(of_runs + of_questions - of_rest, of_runs, of_questions, of_rest)
    parts = ((of_runs, s - 1), (of_questions, n - 1), (of_rest, (s - 1) * (n - 1)))
    return variance, variance**2 / sum(part**2 / freedom for part, freedom in parts)


def _bootstrap_ci95(differences: Values, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `differences` (n,); Efron and Tibshirani 1993, chapter 13."""
    if len(differences) == 1:  # scipy wants two or more
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, RESAMPLED_AT_ONCE // len(differences)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p-value: `wins` of the discordant pairs, binomial with probability 1/2."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _sign_flip(differences: Values, resamples: int, seed: int) -> float:
    """Two-sided p-value of the mean under random signs, with the +1s of Phipson and Smyth 2010.

    Signs are drawn for `monte_carlo_test`; `permutation_test` has the same distribution and is ten times slower here.
    """
    rng = np.random.default_rng(seed)

    def flipped(size: tuple[int, ...]) -> Values:  # (batch, n)
        return differences * (2 * rng.integers(0, 2, size, dtype=np.int8) - 1)

    found = stats.monte_carlo_test(
        differences,
        flipped,
        lambda values, axis: np.abs(values.mean(axis=axis)),
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, RESAMPLED_AT_ONCE // len(differences)),
        alternative="greater",
    )
    return float(found.pvalue)


def confusion_matrix(true: Sequence[str], chosen: Sequence[str], labels: Sequence[str]) -> Counts:
    """How often each label was chosen (columns) for each true one (rows), (L, L).

    Raises:
        ValueError: the lengths of `true` and `chosen` differ, a label is none of `labels`, or `labels` name one twice.
    """
    if len(true) != len(chosen):
        raise ValueError(f"{len(true)} true domains for {len(chosen)} chosen ones; a confusion matrix needs as many.")
    index = {label: number for number, label in enumerate(labels)}
    if len(index) != len(labels):
        raise ValueError(f"The labels {', '.join(labels)} name one twice.")
    counts = [[0] * len(labels) for _ in labels]
    for row, column in zip(true, chosen, strict=True):
        for label in (row, column):
            if label not in index:
                raise ValueError(f"{label!r} is no label; allowed: {', '.join(labels)}.{did_you_mean(label, labels)}")
        counts[index[row]][index[column]] += 1
    return tuple(tuple(row) for row in counts)


def row_shares(counts: Sequence[Sequence[int]]) -> tuple[tuple[float | None, ...], ...]:
    """Each row divided by its sum (L, L); None in the rows of domains without prompts."""
    return tuple(tuple(count / sum(row) if sum(row) else None for count in row) for row in counts)


def dispatch_accuracy(counts: Sequence[Sequence[int]]) -> float | None:
    """Share of the prompts for which the true domain was chosen; None where there were no prompts."""
    total = sum(map(sum, counts))
    return sum(row[index] for index, row in enumerate(counts)) / total if total else None


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate in [0, 1] from `correct` of `samples` completions of one problem (Chen et al. 2021, arXiv
    2107.03374, equation 1).

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
            "completions per problem."
        )
    if samples - correct < k:
        return 1.0  # every draw holds a right one
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values of a family, in the order of `p_values` (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
