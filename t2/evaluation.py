"""How well a generator does on a task, and whether two generators differ by more than chance.

The score is `task.score`, the very one that training rewards. Comparisons are paired, since every system of a
task answers the same examples. Nothing here knows what kind of system answers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2.files import atomic_path
from t2.generation.base import Generator
from t2.tasks.base import Task
from t2.types import Completion, Example, Paired, Report, Sampling


def evaluate(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, system: str
) -> Report:
    """Answer and score the examples, in their order.

    With several samples per example the score is their mean, and the first completion is kept.

    Raises:
        ValueError: there are no examples, or the task gave a score outside [0, 1].
    """
    if not examples:
        raise ValueError(f"No examples of task {task.name} to evaluate {system} on. Give at least one.")
    start = time.perf_counter()
    groups = generator.generate(examples, sampling)
    generated = time.perf_counter()
    assert len(groups) == len(examples), f"{len(groups)} groups of completions for {len(examples)} examples"
    scores = []
    for index, (example, group) in enumerate(zip(examples, groups, strict=True)):
        assert len(group) == sampling.samples, f"{len(group)} completions, expected {sampling.samples}"
        values = [_score(task, index, example, completion) for completion in group]
        scores.append(sum(values) / len(values))
    return Report(
        task=task.name,
        system=system,
        examples=tuple(examples),
        completions=tuple(group[0] for group in groups),
        scores=tuple(scores),
        majority=majority(examples),
        seconds={"rollout": generated - start, "score": time.perf_counter() - generated},
    )


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


def compare(report: Report, base: Report, *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """Mean of `report` minus mean of `base` on the same examples, with its uncertainty over examples.

    The interval is the percentile bootstrap. The p-value is McNemar's exact test where all scores are 0 or 1,
    otherwise a sign-flip permutation test, which is never below 1 / (resamples + 1).

    Raises:
        ValueError: the reports are of different tasks or examples.
    """
    _check_same_examples(report, base)
    return compare_scores(report.scores, base.scores, resamples=resamples, seed=seed)


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


def summarize(task: str, scores: Mapping[str, Sequence[float]], *, majority: float | None) -> dict[str, dict[str, Any]]:
    """The `scores` and `paired` parts of `results.json` for one task; the system `base` is what others are paired with.

    `scores` maps each system to its score per example, over the same examples. A standard error of one example is nan.
    """
    table = {}
    for system, values in scores.items():
        report = Report(task, system, (), (), tuple(values), majority, {})
        table[system] = {"mean": report.mean, "stderr": report.stderr, "n": len(values), "majority": majority}
    paired = {
        system: asdict(compare_scores(values, scores["base"])) for system, values in scores.items() if system != "base"
    }
    return {"scores": {task: table}, "paired": {task: paired}}


def write_samples(path: Path, reports: Sequence[Report]) -> None:
    """Write every example with its answer and score, one JSON object a line (`samples.jsonl`)."""
    lines = [
        json.dumps(
            {
                "task": report.task,
                "system": report.system,
                "prompt": example.prompt,
                "reference": example.answer,
                "answer": completion.text,
                "score": score,
                "finish": completion.finish,
                "tokens": len(completion.token_ids),
            }
        )
        for report in reports
        for example, completion, score in zip(report.examples, report.completions, report.scores, strict=True)
    ]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _score(task: Task, index: int, example: Example, completion: Completion) -> float:
    value = float(task.score(example, completion.text))
    if not 0.0 <= value <= 1.0:  # also true of NaN
        raise ValueError(
            f"Task {task.name} scored {value} for example {index} ({example.prompt[:80]!r}), "
            f"answer {completion.text[:80]!r}; allowed: 0 to 1. Correct the task's score()."
        )
    return value


def _check_same_examples(report: Report, base: Report) -> None:
    names = f"{report.system} and {base.system}"
    if report.task != base.task:
        raise ValueError(f"{names} were evaluated on different tasks: {report.task} and {base.task}.")
    if len(report.examples) != len(base.examples):
        raise ValueError(
            f"{names} were evaluated on {len(report.examples)} and {len(base.examples)} examples of "
            f"{report.task}. Evaluate both on the same ones."
        )
    for index, (a, b) in enumerate(zip(report.examples, base.examples, strict=True)):
        if a is not b and a != b:
            raise ValueError(
                f"{names} were evaluated on different examples of {report.task}: number {index} is "
                f"{a.prompt[:80]!r} and {b.prompt[:80]!r}. Evaluate both on the same ones, in the same order."
            )


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
