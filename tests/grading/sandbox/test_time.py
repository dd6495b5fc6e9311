"""How long a sample may take: a floor, and more where the data set's own solution takes long."""

from __future__ import annotations

import logging
import time

import pytest
from sandboxes import executor

from t2.grading.sandbox.executor import CodeExecutor, CodeTest

SLOW = "import time\ndef f(x):\n    time.sleep({seconds})\n    return x + 1\n"
ASSERTS = "assert f(1) == 2"


def patient(**changes) -> CodeExecutor:
    """An executor of its own, whose memory of references no other test shares."""
    executor("isolated")
    return CodeExecutor(timeout_s=1.0, **changes)


def test_where_the_reference_is_slow_others_may_be():
    """Catches a limit that ends what is as slow as the data set's own solution."""
    test = CodeTest("f", ASSERTS, reference=SLOW.format(seconds=1.2))
    one = patient()
    assert one.run(SLOW.format(seconds=1.4), test).reason is None
    assert patient(reference_factor=0.0).run(SLOW.format(seconds=1.4), test).reason == "timeout"


def test_where_it_is_fast_the_floor_holds_and_it_is_run_once(monkeypatch):
    one, ran = patient(), []

    def tried(program, *_):
        ran.append(program)
        return "timeout" if "60" in program else None, ""

    monkeypatch.setattr(one, "_tried", tried)
    test = CodeTest("f", ASSERTS, reference="def f(x): return x + 1")
    endless = SLOW.format(seconds=60)
    assert [one.run(endless, test).reason for _ in range(3)] == ["timeout"] * 3
    assert ran == [endless, test.reference, endless, endless]


def test_a_program_that_ends_in_time_runs_no_reference():
    test = CodeTest("f", ASSERTS, reference="def f(x): return x + 1")
    one = patient()
    assert one.run("def f(x): return x + 1", test).reason is None
    assert one._allowed_s == {}


def test_what_takes_longer_than_its_share_is_ended():
    test = CodeTest("f", ASSERTS, reference=SLOW.format(seconds=0.7))
    start = time.monotonic()
    assert patient(reference_factor=2.0).run(SLOW.format(seconds=60), test).reason == "timeout"
    assert time.monotonic() - start < 15


def test_a_reference_that_fails_gives_no_time_and_says_so(caplog):
    test = CodeTest("f", ASSERTS, reference="def f(x): return x")
    with caplog.at_level(logging.WARNING, logger="t2.grading.sandbox.executor"):
        assert patient().run(SLOW.format(seconds=60), test).reason == "timeout"
    assert "The reference of f fails its test: wrong. It gives no time." in caplog.text


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_a_factor_out_of_range(factor):
    with pytest.raises(ValueError, match=r"reference_factor is .*; allowed: 0"):
        CodeExecutor(reference_factor=factor)
