"""Answers scored while others are still being made (graders may be slow: code in a sandbox, symbolic mathematics).

Grading happens in threads, so a grader that waits for a process costs the model nothing; one that computes in Python
competes with it. The order of results is that of the examples, whatever finishes first. What training and evaluation
make of the grades is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2.policy.generator import Generator, StreamingGenerator
from t2.run.phases import Phases
from t2.tasks.base import Task, grade
from t2.types import Completion, Example, Grade, Sampling


@dataclass(frozen=True)
class Scored:
    """The answers to B examples, G each, and what the task says of them, in the order of the examples."""

    completions: tuple[tuple[Completion, ...], ...]  # B x G
    grades: tuple[tuple[Grade, ...], ...]  # B x G

    @property
    def scores(self) -> Tensor:
        """Scores of the grades, fp32 (B, G)."""
        return torch.tensor([[one.score for one in grades] for grades in self.grades], dtype=torch.float32)


def check_workers(workers: int) -> None:
    """Raise ValueError for a number of grading threads that would grade nothing."""
    if workers < 1:
        raise ValueError(f"score_workers is {workers}; allowed: at least 1.")


def complete_and_score(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, workers: int, phases: Phases
) -> Scored:
    """B examples -> G completions each, graded.

    Charges `phases` with `rollout` and with what is still to be waited for then, `score`.

    Raises:
        ValueError: a score outside [0, 1], or what the generator refuses; what the task's grader raises passes through.
    """
    check_workers(workers)
    groups: dict[int, list[Completion]] = {}
    pending: dict[int, list[Future[Grade]]] = {}
    graders = ThreadPoolExecutor(workers, thread_name_prefix="grader")
    try:
        with phases("rollout"):
            for place, group in _stream(generator, examples, sampling):
                groups[place] = group
                pending[place] = [graders.submit(_checked_grade, task, place, examples[place], one) for one in group]
        places = range(len(examples))
        assert groups.keys() == set(places), f"{len(groups)} groups of completions for {len(examples)} examples"
        with phases("score"):
            grades = tuple(tuple(one.result() for one in pending[place]) for place in places)
    finally:
        graders.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody needs the grades still to come
    return Scored(tuple(tuple(groups[place]) for place in places), grades)


def _checked_grade(task: Task, place: int, example: Example, completion: Completion) -> Grade:
    """The task's grade with a score that is a float in [0, 1]."""
    given = grade(task, example, completion.text)
    score = float(given.score)
    if not 0.0 <= score <= 1.0:  # also true of NaN
        raise ValueError(
            f"Task {task.name} scored {score} for example {place} ({example.prompt[:80]!r}), "
            f"answer {completion.text[:80]!r}; allowed: 0 to 1. Correct the task's score()."
        )
    return replace(given, score=score)


def _stream(
    generator: Generator, examples: Sequence[Example], sampling: Sampling
) -> Iterator[tuple[int, list[Completion]]]:
    if isinstance(generator, StreamingGenerator):
        return generator.stream(examples, sampling)
    return enumerate(generator.generate(examples, sampling))
