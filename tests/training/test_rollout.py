"""What the loggers get of a step's completions, and what the log says of those that were cut off."""

from __future__ import annotations

import logging

import pytest
import torch

from t2.training.objectives import RLOO
from t2.training.rollout import StepRecord, rollout_metrics, warn_of_cut_off
from t2.types import Completion, Example, Grade


@pytest.mark.parametrize(("truncated", "share"), [("keep", 0.25), ("wrong", 0.0)])
def test_completions_that_were_cut_off_and_reinforced_are_counted_and_said(
    truncated: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As where "105, which is" is graded like "105": an expert learns to go on, and is wrong where nothing stops it."""
    cut_off = torch.tensor([[True, False, False, False], [True, True, False, True]])
    scores = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    groups = [
        [Completion((1,), (2, 3), (0.0, 0.0), "x", "length" if cut else "stop") for cut in row]
        for row in cut_off.tolist()
    ]
    grades = [[Grade(score) for score in row] for row in scores.tolist()]
    objective = RLOO(truncated=truncated)  # type: ignore[arg-type]
    rewards = objective.rewards(scores, cut_off)
    record = StepRecord(0, [Example("a"), Example("b")], groups, scores, grades)
    metrics = rollout_metrics(record, rewards, objective.advantages(rewards, cut_off), cut_off)
    assert metrics["rollout/truncated"] == 0.5
    assert metrics["rollout/truncated_rewarded"] == share
    with caplog.at_level(logging.WARNING):
        warn_of_cut_off(metrics, 6)
    told = "25 % of the last step's completions were cut off at sampling.max_new_tokens=6" in caplog.text
    assert told == (truncated == "keep")
