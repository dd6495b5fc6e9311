"""Grades completions in worker threads while generation continues, and reports how a system did on a task.

Graders may be slow (code in a sandbox, symbolic mathematics): one that waits for a process costs the model nothing, one
that computes in Python competes with it. Results are in the order of the examples, whatever finishes first. The score
is the task's own, the very one that training rewards. Nothing here knows what kind of system generates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from t2.evaluation.report import Report
from t2.evaluation.statistics import majority
from t2.policy.generator import Generator, StreamingGenerator
from t2.run.phases import Phases
from t2.tasks.base import Task, grade
from t2.types import Completion, Example, Grade, Sampling


@runtime_checkable
class Rewriting(Protocol):
    """A generator whose model reads another form of an example (`t2.evaluation.form_controls`)."""

    @property
    def rewrite(self) -> Callable[[Example], Example]:
        """From an example to what the model reads."""
        ...


@dataclass(frozen=True)
class Scored:
    """G completions of each of B examples and their grades, in the order of the examples."""

    completions: tuple[tuple[Completion, ...], ...]  # B x G
    grades: tuple[tuple[Grade, ...], ...]  # B x G

    @property
    def scores(self) -> Tensor:
        """Scores of the grades, fp32 (B, G)."""
        return torch.tensor([[one.score for one in grades] for grades in self.grades], dtype=torch.float32)


def check_workers(workers: int) -> None:
    """Raise ValueError for a number of grading threads below 1."""
    if workers < 1:
        raise ValueError(f"score_workers is {workers}; allowed: at least 1.")


def evaluate(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, system: str, workers: int = 2
) -> Report:
    """Complete and grade the examples; `system` is the generator's name in the report.

    With several samples per example the score is their mean. The report's seconds are those of `complete_and_score`.

    Raises:
        ValueError: there are no examples, or what `complete_and_score` refuses.
    """
    if not examples:
        raise ValueError(f"No examples of task {task.name} to evaluate {system} on. Give at least one.")
    phases = Phases()
    scored = complete_and_score(generator, task, examples, sampling, workers=workers, phases=phases)
    for group in scored.completions:
        assert len(group) == sampling.samples, f"{len(group)} completions, expected {sampling.samples}"
    return report_of(scored, task, examples, system=system, seconds=phases.total_seconds)


def report_of(
    scored: Scored, task: Task, examples: Sequence[Example], *, system: str, seconds: Mapping[str, float]
) -> Report:
    """The report of graded completions of the examples; with several samples the score is their mean."""
    return Report(
        task=task.name,
        system=system,
        examples=tuple(examples),
        completions=tuple(group[0] for group in scored.completions),
        scores=tuple(sum(grade.score for grade in grades) / len(grades) for grades in scored.grades),
        majority=majority(examples),
        seconds=dict(seconds),
        samples=scored.completions,
        grades=scored.grades,
    )


def complete_and_score(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, workers: int, phases: Phases
) -> Scored:
    """B examples -> G completions each, graded by `workers` threads.

    Charges `phases` with the seconds of `rollout`, and of `score`: the wait for grades once all completions are there.

    Raises:
        ValueError: a score outside [0, 1], or what the generator refuses; what the task's grader raises passes through.
    """
    check_workers(workers)
    groups: dict[int, list[Completion]] = {}
    pending: dict[int, list[Future[Grade]]] = {}
    graders = ThreadPoolExecutor(workers, thread_name_prefix="grader")
    try:
        with phases("rollout"):
            for index, group in stream(generator, examples, sampling):
                groups[index] = group
                example = as_begun(generator, examples[index])
                pending[index] = [graders.submit(grade, task, example, one.text) for one in group]
        indices = range(len(examples))
        assert groups.keys() == set(indices), f"{len(groups)} groups of completions for {len(examples)} examples"
        with phases("score"):
            grades = tuple(tuple(one.result() for one in pending[index]) for index in indices)
    finally:
        graders.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody needs the grades still to come
    return Scored(tuple(tuple(groups[index]) for index in indices), grades)


def as_begun(generator: Generator, example: Example) -> Example:
    """The example with the beginning of the turn that the generator's model was given, which graders read."""
    if not isinstance(generator, Rewriting):
        return example
    return replace(example, response_prefix=generator.rewrite(example).response_prefix)


def stream(
    generator: Generator, examples: Sequence[Example], sampling: Sampling
) -> Iterator[tuple[int, list[Completion]]]:
    """Yield (index of the example, its G completions), as soon as they are finished where the generator can do that."""
    if isinstance(generator, StreamingGenerator):
        return generator.stream(examples, sampling)
    return enumerate(generator.generate(examples, sampling))
