"""What processes hold, from outside: shared pages and page tables count, and those of all descendants."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from attacks_memory import MEMORY
from sandboxes import executor

from t2.grading.sandbox.executor import CodeTest
from t2.grading.sandbox.memory import held_bytes, watchable

MB = 1 << 20
HOLDS = "import mmap, sys\na = {what}\na[:] = b'x' * len(a)\nprint(flush=True)\nsys.stdin.read()"
pytestmark = pytest.mark.skipif(not watchable(), reason="This kernel does not list a process's children")


@pytest.mark.parametrize("what", [f"bytearray({64 * MB})", f"mmap.mmap(-1, {64 * MB})"], ids=["own", "shared"])
def test_what_a_descendant_holds_counts(what):
    code = HOLDS.format(what=what)
    shell = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-S", "-c", code]
    process = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.read(1)
        assert 64 * MB <= held_bytes(process.pid) < 150 * MB
    finally:
        process.communicate()


def test_a_process_that_has_ended_holds_nothing():
    process = subprocess.Popen(["true"])
    process.wait()
    assert held_bytes(process.pid) == 0


def test_this_process_holds_something():
    assert held_bytes(os.getpid()) > MB


def test_page_tables_count_against_the_limit():
    """45,000 pages far apart: 180 MB of addresses, and 350 MB of tables that RLIMIT_AS does not see."""
    attack = MEMORY["page tables"]
    small, large = (executor("isolated", memory_mb=mb) for mb in (256, 2048))
    assert small.run(attack.program, attack.test).reason == "oom"
    answers_anyway = CodeTest("f", "assert f(3) == 23770")
    assert large.run(attack.program, answers_anyway).reason is None
