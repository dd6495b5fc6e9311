"""Solved examples that are shown are not scored, and none are taken for missing."""

from dataclasses import dataclass

import pytest
from conftest import LetterTask

from t2.evaluation.benchmark import Benchmark
from t2.evaluation.selection import Controls


def shown(task, **changes):
    return Benchmark([task], controls=Controls(), **({"split": "train"} | changes)).shown["letters"]


def test_solved_examples_that_are_scored_are_not_shown(caplog):
    scored = {one.prompt for one in LetterTask().split("train")[:30]}
    kept = shown(LetterTask(), limit=30)
    assert len(kept) == 3
    assert not scored & {one.prompt for one in kept}
    assert shown(LetterTask()) == ()
    assert "base+shots is left out" in caplog.text


@dataclass(frozen=True)
class Damaged(LetterTask):
    def split(self, split):
        if split == "train":
            raise ValueError("train.jsonl, line 3: no column 'answer'")
        return super().split(split)


def test_solved_examples_that_cannot_be_read_are_not_taken_for_none():
    with pytest.raises(ValueError, match="line 3"):
        shown(Damaged(), split="test")
