"""How a system did on a task: its report, comparisons with another, and the parts of `results.json` made of reports.

    scores, paired      statistics of each system, and its difference to the base over the same examples
    reasons             {task: {system: {reason: completions}}} over all samples; right completions have no reason
    by_group            {task: {system: {kind: {value: Statistic}}}} from `Example.metadata["groups"]`
    pass_at_k           {task: {system: {"1": share, "5": share, ...}}} with several samples; right is a score of 1
    mixing_weights      {task: {system: {domain: mean over examples and matrices}}} of two-pass systems
    pass_seconds        {task: {system: {"fit": seconds, "pass1": seconds, "pass2": seconds}}}; of systems without
                        passes the answers' alone, as pass2
    tokens              {task: {system: {"prompt", "completion": tokens of the answers, with the prompts that were read;
                        "fit", "pass1", "pass2": tokens through the model, as for pass_seconds}}}
    confusion           {system: Confusion} over the tasks that have a true domain

Nothing here knows what a system is.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2.evaluation.results import Confusion, Score, Statistic
from t2.evaluation.statistics import Paired, compare_scores, confusion_matrix, pass_at_k, standard_error
from t2.run.files import atomic_path
from t2.tasks.base import DocumentedTask, Task
from t2.types import Completion, Example, Grade

PASSES = ("pass1", "pass2")
PARTS = ("fit", *PASSES)  # of a two-pass system's work
PASS_AT = (1, 5, 10, 100)  # the k of pass@k, as far as there are samples


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
        """Standard error of the mean; nan for a single example."""
        return standard_error(self.scores)


@dataclass(frozen=True)
class Outcome:
    """A report, and what a two-pass system chose.

    `mixing_weights` are means over examples and matrices by domain, empty without a pool, and `example_weights` those
    of each example; `chosen` is a label per example, empty where the system chooses none. The report of a two-pass
    system has the seconds of `fit`, `pass1` and `pass2` instead of `rollout`. `tokens` are those of the part of that
    name; empty for a system that was made of others.
    """

    report: Report
    mixing_weights: Mapping[str, float] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    example_weights: tuple[Mapping[str, float], ...] = ()


def compare(report: Report, base: Report, *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """`compare_scores` of two reports, once they are known to be of the same examples.

    Raises:
        ValueError: the reports are of different tasks or examples.
    """
    check_same_examples(report, base)
    return compare_scores(report.scores, base.scores, resamples=resamples, seed=seed)


def summarize(
    scores: Mapping[str, Sequence[float]], *, majority: float | None
) -> tuple[dict[str, Score], dict[str, Paired]]:
    """The scores of one task by system, and their differences to the system `base`.

    `scores` maps each system to its score per example, over the same examples.
    """
    table = {system: Score(**vars(_statistic(values)), majority=majority) for system, values in scores.items()}
    return table, {s: compare_scores(values, scores["base"]) for s, values in scores.items() if s != "base"}


def summarize_reports(reports: Sequence[Report]) -> dict[str, Any]:
    """The parts `scores`, `paired` and `truncated`; `reasons`, `by_group` and `pass_at_k` where there are any."""
    parts: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(report.task for report in reports):
        found = {report.system: report for report in reports if report.task == task}
        scores = {system: report.scores for system, report in found.items()}
        table, paired = summarize(scores, majority=next(iter(found.values())).majority)
        parts.setdefault("scores", {})[task], parts.setdefault("paired", {})[task] = table, paired
        parts.setdefault("truncated", {})[task] = {system: _truncated(report) for system, report in found.items()}
        for part, count in {"reasons": _reasons, "by_group": _groups, "pass_at_k": _pass_at_k}.items():
            of: dict[str, Any] = {system: count(report) for system, report in found.items()}
            if any(of.values()):
                parts.setdefault(part, {})[task] = of
    return parts


def summarize_choices(
    outcomes: Sequence[Outcome], *, domains: Mapping[str, str], labels: Sequence[str]
) -> dict[str, Any]:
    """The parts `mixing_weights`, `pass_seconds` and `confusion`.

    Args:
        outcomes: of every system on every task.
        domains: task -> its true domain; tasks that have none are in no confusion matrix.
        labels: the pool's domains and `other`.
    """
    weights: dict[str, dict[str, Any]] = {}
    seconds: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        report = outcome.report
        if outcome.mixing_weights:
            weights.setdefault(report.task, {})[report.system] = dict(outcome.mixing_weights)
            seconds.setdefault(report.task, {})[report.system] = {part: report.seconds[part] for part in PARTS}
        elif "rollout" in report.seconds:
            seconds.setdefault(report.task, {})[report.system] = {"pass2": report.seconds["rollout"]}
        if report.task in domains and outcome.chosen:
            pairs.setdefault(report.system, []).extend((domains[report.task], label) for label in outcome.chosen)
    confusion = {
        system: Confusion(tuple(labels), confusion_matrix([t for t, _ in of], [c for _, c in of], labels))
        for system, of in pairs.items()
    }
    return {"mixing_weights": weights, "pass_seconds": seconds, "confusion": confusion}


def summarize_tokens(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The part `tokens`, of the systems that were measured."""
    tokens: dict[str, dict[str, dict[str, int]]] = {}
    for outcome in outcomes:
        if outcome.tokens:
            tokens.setdefault(outcome.report.task, {})[outcome.report.system] = dict(outcome.tokens)
    return {"tokens": tokens}


def describe_data(tasks: Sequence[Task]) -> dict[str, Any]:
    """The part `data`: what documented tasks say of the data they have read, by task."""
    return {task.name: dict(task.about()) for task in tasks if isinstance(task, DocumentedTask)}


def write_samples(path: Path, reports: Sequence[Report]) -> None:
    """Write every completion with its score, one JSON object a line (`samples.jsonl`).

    `id`, `system_message` and `images` (their number) are there where the example has them, and `sample` (from 0) where
    it has several completions.
    """
    lines = [
        json.dumps(sample_line(report, index, number))
        for report in reports
        for index in range(len(report.examples))
        for number in range(len(report.samples[index]))
    ]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def sample_line(report: Report, index: int, number: int) -> dict[str, Any]:
    """A completion with its score: sample `number` of example `index`, as samples.jsonl has it."""
    example, group = report.examples[index], report.samples[index]
    completion, grade = group[number], report.grades[index][number]
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


def _truncated(report: Report) -> float:
    """The share of completions that the token budget cut off."""
    cut = [one.finish == "length" for group in report.samples for one in group]
    return sum(cut) / len(cut) if cut else 0.0


def _reasons(report: Report) -> dict[str, int]:
    counts = Counter(grade.reason for grades in report.grades for grade in grades if grade.reason is not None)
    return dict(counts.most_common())


def _groups(report: Report) -> dict[str, dict[str, Statistic]]:
    members: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for example, score in zip(report.examples, report.scores, strict=True):
        for kind, value in example.metadata.get("groups", {}).items():
            members[kind][value].append(score)
    return {kind: {value: _statistic(of) for value, of in sorted(values.items())} for kind, values in members.items()}


def _pass_at_k(report: Report) -> dict[str, float]:
    samples = len(report.grades[0]) if report.grades else 0
    right = [sum(grade.score == 1.0 for grade in grades) for grades in report.grades]
    ks = [k for k in PASS_AT if k <= samples > 1]
    return {str(k): sum(pass_at_k(samples, correct, k) for correct in right) / len(right) for k in ks}


def _statistic(scores: Sequence[float]) -> Statistic:
    stderr = standard_error(scores) if len(scores) > 1 else None
    return Statistic(mean=sum(scores) / len(scores), stderr=stderr, n=len(scores))


def check_same_examples(report: Report, base: Report) -> None:
    """Raise ValueError unless two reports are of the same examples of one task."""
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
