"""The pool with a worker that does what it is told: hang, die, print: it costs one answer and nothing else."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2.grading.math import worker_pool as math_pool
from t2.grading.math.worker_pool import WorkerPool

FAKE = """
import json, os, signal, sys, time
if {broken}: sys.exit(3)
print("true", flush=True)
for line in sys.stdin:
    order, *rest = json.loads(line)
    if order == "hang":
        for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
    if order == "die": os._exit(0)
    if order == "die later":
        print("true", flush=True)
        os._exit(0)
    if order == "half":
        print("tr", end="", flush=True)
        time.sleep(1000)
    if order == "pid": open(rest[0], "a").write(f"{{os.getpid()}}\\n")
    print("true" if order in ("yes", "pid") else "false", flush=True)
"""


@pytest.fixture
def pool_of(monkeypatch, tmp_path):
    script, pools = tmp_path / "fake.py", []
    monkeypatch.setattr(math_pool, "_SCRIPT", script)

    def make(workers, deadline_s, broken=False):
        script.write_text(FAKE.format(broken=broken))
        pools.append(WorkerPool(workers, deadline_s))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("order", ["hang", "die", "half"])
def test_a_worker_that_fails_costs_its_own_answer_only(pool_of, order):
    pool = pool_of(1, 1.0)
    assert pool.ask(["yes"])
    assert not pool.ask([order])
    assert pool.ask(["yes"])
    assert not pool.ask(["no"])


def test_others_are_answered_while_one_hangs(pool_of):
    pool = pool_of(2, 20.0)
    with ThreadPoolExecutor(1) as threads:
        hung = threads.submit(pool.ask, ["hang"])
        assert all(pool.ask(["yes"]) for _ in range(20))
        assert not hung.done()
        pool.close()
        assert hung.result(timeout=10.0) is False


def test_a_hung_worker_is_given_up_at_the_deadline(pool_of):
    pool = pool_of(1, 1.0)
    assert pool.ask(["yes"])
    start = time.monotonic()
    pool.ask(["hang"])
    assert 1.0 <= time.monotonic() - start < 5.0


def test_waiting_for_a_worker_is_not_held_against_an_answer(pool_of):
    pool = pool_of(1, 1.0)
    with ThreadPoolExecutor(3) as threads:
        verdicts = [threads.submit(pool.ask, [order]) for order in ("hang", "no", "yes")]
        assert [verdict.result() for verdict in verdicts] == [False, False, True]


def test_a_worker_that_ended_while_idle_is_replaced_before_it_is_asked(pool_of):
    pool = pool_of(1, 5.0)
    assert pool.ask(["die later"])
    time.sleep(0.5)
    assert pool.ask(["yes"])


def test_many_threads_get_their_own_verdicts(pool_of):
    pool = pool_of(2, 20.0)
    orders = ["yes", "no"] * 100
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda order: pool.ask([order]), orders)) == [order == "yes" for order in orders]


def test_text_arrives_as_it_was_sent(pool_of, tmp_path):
    assert not pool_of(1, 20.0).ask(["\ud800\n\x00√", "yes"])  # a line break of its own it would be two requests


def test_closing_ends_the_processes(pool_of, tmp_path):
    pool, pids = pool_of(1, 20.0), tmp_path / "pids"
    pool.ask(["pid", str(pids)])
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_a_closed_pool_says_so_to_all_who_wait(pool_of):
    pool = pool_of(1, 20.0)
    assert pool.ask(["yes"])
    pool.close()
    with ThreadPoolExecutor(2) as threads:
        for asked in [threads.submit(pool.ask, ["yes"]) for _ in range(2)]:
            assert isinstance(asked.exception(timeout=10.0), RuntimeError)


def test_a_worker_that_does_not_start_is_an_error(pool_of):
    with pytest.raises(RuntimeError, match=r"did not start.*math-verify is installed"):
        pool_of(1, 5.0, broken=True).ask(["yes"])
