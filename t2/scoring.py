"""Answers scored while others are still being made (graders may be slow: code in a sandbox, symbolic mathematics).

Grading happens in threads, so a grader that waits for a process costs the model nothing; one that computes in Python
competes with it. The order of results is that of the examples, whatever finishes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from t2.generation.base import Generator, StreamingGenerator
from t2.objectives import check_scores
from t2.runtime import Phases
from t2.tasks.base import Task
from t2.types import Completion, Example, Sampling


def answer_and_score(
    generator: Generator, task: Task, examples: Sequence[Example], sampling: Sampling, *, workers: int, phases: Phases
) -> tuple[list[list[Completion]], Tensor]:
    """B examples -> B lists of G completions and their scores (B, G).

    Charges `phases` with `rollout` and with what is still to be waited for then, `score`.

    Raises:
        ValueError: a score outside [0, 1], or what the generator refuses; what `task.score` raises passes through.
    """
    groups: dict[int, list[Completion]] = {}
    graded: dict[int, list[Future[float]]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="grader") as graders:
        with phases("rollout"):
            for place, group in _stream(generator, examples, sampling):
                groups[place] = group
                graded[place] = [graders.submit(task.score, examples[place], one.text) for one in group]
        with phases("score"):
            scores = [[one.result() for one in graded[place]] for place in range(len(examples))]
    flat = [score for row in scores for score in row]
    return [groups[place] for place in range(len(examples))], check_scores(flat, f"task {task.name!r}").view(
        len(examples), -1
    )


def _stream(
    generator: Generator, examples: Sequence[Example], sampling: Sampling
) -> Iterator[tuple[int, list[Completion]]]:
    if isinstance(generator, StreamingGenerator):
        return generator.stream(examples, sampling)
    return enumerate(generator.generate(examples, sampling))
