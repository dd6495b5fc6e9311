"""How well a generator does on a task, and whether two generators differ by more than chance.

The score is the task's own, the very one that training rewards. Comparisons are paired, since every system of a
task answers the same examples. Nothing here knows what kind of system answers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2.files import atomic_path
from t2.generation.base import Generator
from t2.grading.pass_at_k import pass_at_k
from t2.runtime import Phases
from t2.scoring import answer_and_score
from t2.tasks.base import DocumentedTask, Task
from t2.types import Example, Paired, Report, Sampling

PASS_AT = (1, 5, 10, 100)  # the k of pass@k, as far as there are samples


def evaluate(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, system: str, workers: int = 2
) -> Report:
    """Answer and score the examples, in their order; `workers` threads grade while others are being answered.

    With several samples per example the score is their mean. The `score` seconds are those that were still to be
    waited for when the last answer had been made.

    Raises:
        ValueError: there are no examples, or the task gave a score outside [0, 1].
    """
    if not examples:
        raise ValueError(f"No examples of task {task.name} to evaluate {system} on. Give at least one.")
    phases = Phases()
    scored = answer_and_score(generator, task, examples, sampling, workers=workers, phases=phases)
    for group in scored.completions:
        assert len(group) == sampling.samples, f"{len(group)} completions, expected {sampling.samples}"
    return Report(
        task=task.name,
        system=system,
        examples=tuple(examples),
        completions=tuple(group[0] for group in scored.completions),
        scores=tuple(sum(grade.score for grade in grades) / len(grades) for grades in scored.grades),
        majority=majority(examples),
        seconds=dict(phases.total_seconds),
        samples=scored.completions,
        grades=scored.grades,
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
    table = {system: {**_statistics(values), "majority": majority} for system, values in scores.items()}
    paired = {
        system: asdict(compare_scores(values, scores["base"])) for system, values in scores.items() if system != "base"
    }
    return {"scores": {task: table}, "paired": {task: paired}}


def break_down(reports: Sequence[Report]) -> dict[str, dict[str, Any]]:
    """The `reasons`, `by_group` and `pass_at_k` parts of `results.json` for the reports of one task.

        reasons    {task: {system: {reason: answers}}} over all samples; right answers have no reason
        by_group   {task: {system: {kind: {value: {"mean", "stderr", "n"}}}}} from `Example.metadata["groups"]`
        pass_at_k  {task: {system: {"1": share, "5": share, ...}}} with several samples; right is a score of 1

    A part is left out where it has nothing of any system.
    """
    parts: dict[str, dict[str, Any]] = {
        "reasons": {report.system: _count_reasons(report) for report in reports},
        "by_group": {report.system: _score_groups(report) for report in reports},
        "pass_at_k": {report.system: _estimate_pass_at_k(report) for report in reports},
    }
    return {part: {reports[0].task: of} for part, of in parts.items() if any(of.values())}


def describe_data(tasks: Sequence[Task]) -> dict[str, Any]:
    """The `data` part of `results.json`: what documented tasks say of the data they have read, by task."""
    return {task.name: dict(task.about()) for task in tasks if isinstance(task, DocumentedTask)}


def write_samples(path: Path, reports: Sequence[Report]) -> None:
    """Write every answer with its score, one JSON object a line (`samples.jsonl`).

    `id`, `system_message` and `images` (their number) are there where the example has them, and `sample` (from 0) where
    it was answered several times.
    """
    lines = [
        json.dumps(_sample_line(report, place, number))
        for report in reports
        for place in range(len(report.examples))
        for number in range(len(report.samples[place]))
    ]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _sample_line(report: Report, place: int, number: int) -> dict[str, Any]:
    example, group = report.examples[place], report.samples[place]
    completion, grade = group[number], report.grades[place][number]
    optional = {
        "id": example.metadata.get("id"),
        "sample": number if len(group) > 1 else None,
        "system_message": example.system,
        "images": len(example.images) or None,
    }
    return {
        "task": report.task,
        "system": report.system,
        **{name: value for name, value in optional.items() if value is not None},
        "prompt": example.prompt,
        "reference": example.answer,
        "answer": completion.text,
        "score": grade.score,
        "reason": grade.reason,
        "extracted": grade.extracted,
        "finish": completion.finish,
        "tokens": len(completion.token_ids),
    }


def _count_reasons(report: Report) -> dict[str, int]:
    counts = Counter(grade.reason for grades in report.grades for grade in grades if grade.reason is not None)
    return dict(counts.most_common())


def _score_groups(report: Report) -> dict[str, dict[str, Any]]:
    members: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for example, score in zip(report.examples, report.scores, strict=True):
        for kind, value in example.metadata.get("groups", {}).items():
            members[kind][value].append(score)
    return {kind: {value: _statistics(of) for value, of in sorted(values.items())} for kind, values in members.items()}


def _estimate_pass_at_k(report: Report) -> dict[str, float]:
    samples = len(report.grades[0]) if report.grades else 0
    right = [sum(grade.score == 1.0 for grade in grades) for grades in report.grades]
    ks = [k for k in PASS_AT if k <= samples > 1]
    return {str(k): sum(pass_at_k(samples, correct, k) for correct in right) / len(right) for k in ks}


def _statistics(scores: Sequence[float]) -> dict[str, Any]:
    report = Report("", "", (), (), tuple(scores), None, {})
    return {"mean": report.mean, "stderr": report.stderr, "n": len(scores)}


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
