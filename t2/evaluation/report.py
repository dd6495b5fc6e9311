"""What one system did on one task: its report, comparisons with another, and the files written of it."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2.evaluation.statistics import Paired, compare_scores, pass_at_k
from t2.run.files import atomic_path
from t2.types import Completion, Example, Grade


@dataclass(frozen=True)
class Report:
    """How one system did on one task: a score in [0, 1] per example, the mean of its samples, in their order."""

    task: str
    system: str
    examples: tuple[Example, ...]
    completions: tuple[Completion, ...]  # the first of each example
    scores: tuple[float, ...]
    majority: float | None  # accuracy of always giving the most frequent reference answer
    seconds: Mapping[str, float]
    samples: tuple[tuple[Completion, ...], ...] = ()  # B x G
    grades: tuple[tuple[Grade, ...], ...] = ()  # B x G

    @property
    def mean(self) -> float:
        """Mean score."""
        return sum(self.scores) / len(self.scores)

    @property
    def stderr(self) -> float:
        """Standard error of the mean, from the sample variance (nan for a single example)."""
        n = len(self.scores)
        if n < 2:
            return float("nan")
        mean = self.mean
        return math.sqrt(sum((score - mean) ** 2 for score in self.scores) / (n - 1) / n)


PASS_AT = (1, 5, 10, 100)  # the k of pass@k, as far as there are samples


def compare(report: Report, base: Report, *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """Mean of `report` minus mean of `base` on the same examples, with its uncertainty over examples.

    The interval is the percentile bootstrap. The p-value is McNemar's exact test where all scores are 0 or 1,
    otherwise a sign-flip permutation test, which is never below 1 / (resamples + 1).

    Raises:
        ValueError: the reports are of different tasks or examples.
    """
    _check_same_examples(report, base)
    return compare_scores(report.scores, base.scores, resamples=resamples, seed=seed)


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
