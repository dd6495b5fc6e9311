"""Folders of finished evaluations, for tests of what joins them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from results_files import results_of

from t2.evaluation.results import Score

TASK = "sums"
BASE = [0.0, 0.0, 1.0, 0.0]


def run_folder(
    path: Path, scores: dict[str, list[float]], *, seed: int = 0, task: str = TASK, prompts: str = "abcd", **more: Any
) -> Path:
    """A run with these scores per question by system, and `more` parts of its results."""
    path.mkdir(parents=True)
    lines = [
        {"task": task, "system": system, "prompt": prompt, "score": score}
        for system, values in scores.items()
        for prompt, score in zip(prompts, values, strict=True)
    ]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = {system: Score(fmean(values), None, len(values), 0.25) for system, values in scores.items()}
    results_of(seed=seed, scores={task: table}, **more).write(path)
    return path
