"""A MATH task over local rows, and a grader that says what it was asked."""

from pathlib import Path

import pytest

import t2.tasks.math
from t2.tasks.math import MATH
from t2.types import Example

ROWS = Path(__file__).parent / "rows"
FILES = {split: str(ROWS / "math" / f"{split}.jsonl") for split in ("train", "test")}


def task(**changes):
    return MATH(**{"data_files": FILES, "val_size": 2, **changes})


def asked(gold):
    return Example("q", f"\\boxed{{{gold}}}")


class Symbolic:
    """In place of math-verify: knows one pair, and which references it can read."""

    def __init__(self):
        self.asked = []

    def equivalent(self, gold, answer):
        self.asked.append((gold, answer))
        return (gold, answer) == ("(x+1)^2", "x^2+2x+1")

    def can_parse(self, gold):
        return gold != r"\text{blue}"


@pytest.fixture
def symbolic(monkeypatch):
    grader = Symbolic()
    monkeypatch.setattr(t2.tasks.math, "MathGrader", lambda: grader)
    return grader
