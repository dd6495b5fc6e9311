"""How long a sample may take: a floor, and more where the data set's own solution takes long."""

from __future__ import annotations

import logging

import pytest
from sandboxes import executor

from t2.grading.sandbox import executor as sandbox_executor
from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.trial import Limits

SLOW = "import time\ndef f(x):\n    time.sleep({seconds})\n    return x + 1\n"
ASSERTS = "assert f(1) == 2"


def test_where_the_reference_is_slow_others_may_be():
    """Catches a limit that ends what is as slow as the data set's own solution."""
    executor("isolated")  # or skip
    test = CodeTest("f", ASSERTS, reference=SLOW.format(seconds=1.1))
    assert CodeExecutor(timeout_s=1.0).run(SLOW.format(seconds=1.2), test).reason is None


class Fake:
    """In the place of sandboxes: what was asked for, and every program takes as long as it says, or the time it has."""

    def __init__(self, monkeypatch, one: CodeExecutor) -> None:
        self.ran: list[tuple[str, float]] = []
        self.now = 0.0
        monkeypatch.setattr(one, "_tried", self.tried)
        monkeypatch.setattr(sandbox_executor, "time", self)

    def monotonic(self) -> float:
        return self.now

    def tried(self, program: str, test: CodeTest, limits: Limits) -> tuple[str | None, str]:
        self.ran.append((program, limits.timeout_s))
        seconds = float(program.split()[0])
        self.now += min(seconds, limits.timeout_s)
        if seconds > limits.timeout_s:
            return "timeout", ""
        return ("wrong" if "wrong" in program else None), ""


@pytest.mark.parametrize(
    ("changes", "reference", "program", "reason", "limits"),
    [
        ({}, "2", "1", None, [1.0]),  # in time: no reference is run
        ({}, "2", "7", None, [1.0, 60.0, 8.0]),
        ({}, "2", "9", "timeout", [1.0, 60.0, 8.0]),
        ({"reference_factor": 2.0}, "2", "7", "timeout", [1.0, 60.0, 4.0]),
        ({}, "40", "50", None, [1.0, 60.0, 60.0]),  # never more than a minute
        ({}, "90", "99", "timeout", [1.0, 60.0]),  # a reference that does not end says nothing
        ({}, "0.1", "9", "timeout", [1.0, 60.0]),  # the floor holds
        ({}, "2 wrong", "9", "timeout", [1.0, 60.0]),
        ({"reference_factor": 0.0}, "2", "7", "timeout", [1.0]),
        ({}, None, "7", "timeout", [1.0]),
    ],
)
def test_the_time_of_a_sample(monkeypatch, changes, reference, program, reason, limits):
    executor("isolated")
    one = CodeExecutor(timeout_s=1.0, **changes)
    fake = Fake(monkeypatch, one)
    assert one.run(program, CodeTest("f", ASSERTS, reference=reference)).reason == reason
    assert [allowed_s for _, allowed_s in fake.ran] == limits


def test_a_reference_is_run_once_for_its_test_and_its_failure_told_once(monkeypatch, caplog):
    executor("isolated")
    one = CodeExecutor(timeout_s=1.0)
    fake, test = Fake(monkeypatch, one), CodeTest("f", ASSERTS, reference="2 wrong")
    with caplog.at_level(logging.WARNING, logger="t2.grading.sandbox.executor"):
        assert [one.run("9", test).reason for _ in range(3)] == ["timeout"] * 3
    assert [program for program, _ in fake.ran].count("2 wrong") == 1
    assert caplog.text.count("The reference of f fails its test: wrong. It gives no time.") == 1


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_a_factor_out_of_range(factor):
    with pytest.raises(ValueError, match=r"reference_factor is .*; allowed: 0"):
        CodeExecutor(reference_factor=factor)
