"""A task's scores lie in [0, 1]; what does not is named with its index."""

from __future__ import annotations

import math

import pytest
import torch

from t2.tasks.base import check_scores


def test_good_scores_pass_unchanged() -> None:
    scores = check_scores([0.0, 0.25, 1.0], "task")
    assert scores.tolist() == [0.0, 0.25, 1.0]
    assert scores.dtype == check_scores([0, 1], "task").dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.0001, math.inf])
def test_bad_scores_are_refused_with_their_index(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"gsm8k gave the score {bad} to answer 1; a score lies in \[0, 1\]"):
        check_scores([0.5, bad, 0.5], "gsm8k")
