"""Results records for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2.evaluation.report import Report
from t2.evaluation.results import Results, Score
from t2.evaluation.statistics import Paired
from t2.types import Completion, Example, Grade

PAIR = Paired(0.25, (0.1, 0.4), 0.00123)


def results_of(**changes: Any) -> Results:
    """An evaluation of the base and an expert on gcd, with `changes`."""
    fields: dict[str, Any] = {
        "command": "evaluate",
        "base_model": "tiny:llama",
        "adapter": "SVF",
        "task": "gcd",
        "strategy": "fixed",
        "trainable_parameters": 7,
        "scores": {"gcd": {"base": Score(0.25, 0.05, 80, 0.3), "expert": Score(0.5, None, 80, None)}},
        "paired": {"gcd": {"expert": PAIR}},
        "seconds": {"rollout": 12.34, "score": 0.0, "total": 20.0},
        "seed": 0,
    }
    return Results(**(fields | changes))


def report_of(system: str, scores: Sequence[float], *, task: str = "sums") -> Report:
    """A report of one completion per example, cut off where it is wrong."""
    completions = tuple(
        Completion((1,), (2,), (0.0,), f"{system} {i}", "stop" if score else "length") for i, score in enumerate(scores)
    )
    return Report(
        task=task,
        system=system,
        examples=tuple(Example(f"{task} {i}", "1") for i in range(len(scores))),
        completions=completions,
        scores=tuple(map(float, scores)),
        majority=None,
        seconds={"rollout": 1.0},
        samples=tuple((one,) for one in completions),
        grades=tuple((Grade(float(score)),) for score in scores),
    )
