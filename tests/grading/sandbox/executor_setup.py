"""The best executor of this machine, for tests of grades."""

from __future__ import annotations

import pytest
from sandboxes import executor

from t2.grading.sandbox.executor import CodeExecutor, CodeTest

ADD = CodeTest("f", "assert f(1) == 2\nassert f(-1) == 0")
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture
def best() -> CodeExecutor:
    """The level that is used where nothing else is asked for: what the others must agree with."""
    return executor("isolated")
