"""Skips under CI and with --no-skips, seen from a pytest that runs a few tests of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TESTS = """
import pytest

@pytest.mark.parametrize("n", [0, 1])
def test_plain(n):
    if n:
        pytest.skip("the level bwrap does not work here")

@pytest.mark.skipif(True, reason="vLLM is not installed: make test-vllm")
def test_of_vllm(): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_expected(): assert False

@pytest.fixture
def level():
    pytest.skip("The sandbox level unshare does not work here, started by user: no namespaces")

def test_of_a_level(level): pass
"""
MODULE = "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n"


def run(folder: Path, source: str, ci: str | None, *options: str) -> tuple[int, str]:
    """The exit status and output of pytest on a file."""
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    environment |= {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment |= {} if ci is None else {"CI": ci}
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-ra", *options, "test_it.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ci", [None, "", "false"])
def test_elsewhere_a_skip_is_a_skip(tmp_path, ci):
    status, output = run(tmp_path, TESTS, ci)
    assert (status, "1 passed, 3 skipped, 1 xfailed" in output) == (0, True), output


def test_under_ci_only_the_reasons_on_the_list_are_accepted(tmp_path):
    status, output = run(tmp_path, TESTS, "true")
    assert (status, "1 failed, 1 passed, 2 skipped, 1 xfailed" in output) == (1, True), output
    assert "Skipped, which is no result here: the level bwrap does not work here" in output


def test_without_skips_none_is_accepted(tmp_path):
    status, output = run(tmp_path, TESTS, None, "--no-skips")
    # An error is a failure before the test's own body: of a mark, of a fixture.
    assert (status, "1 failed, 1 passed, 1 xfailed, 2 errors" in output) == (1, True), output


def test_a_module_that_skips_itself_is_no_exception(tmp_path):
    assert run(tmp_path, MODULE, "true")[0] != 0
    assert "could not import 'no_such_module'" in run(tmp_path, MODULE, "true")[1]
    assert run(tmp_path, MODULE, None)[0] == 5  # nothing to run, as ever
