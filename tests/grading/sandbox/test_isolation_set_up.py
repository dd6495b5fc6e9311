"""How a sandbox is put together: its tools, its Python, and what runs inside."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from t2.grading.sandbox import bubblewrap
from t2.grading.sandbox import isolation as sandbox
from t2.grading.sandbox.interpreter import Interpreter, within
from t2.grading.sandbox.isolation import Unavailable, build, child_source
from tests.grading.sandbox.isolation_setup import run


def test_a_mask_that_closes_new_folders_does_not_close_the_sandbox(isolated):
    before = os.umask(0o077)
    try:
        assert run(isolated, "print(1)") == "1\n"
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("level", "root", "missing"),
    [
        ("unshare", True, "setpriv and unshare and mount and sh"),
        ("bwrap", True, "bwrap and setpriv"),
        ("bwrap", False, "bwrap"),  # needs nothing else where there is no root to become nobody
    ],
)
def test_missing_tools_are_named(monkeypatch, level, root, missing):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sandbox.ENVIRONMENT, "PATH", "/nowhere")
    monkeypatch.setattr(bubblewrap, "packaged", lambda: None)
    with pytest.raises(Unavailable, match=f"^{missing} not installed$"):
        build(level, Interpreter("/usr/bin/python3", ("/usr",)), root=root)


def test_a_python_without_a_folder_left_to_mount_on():
    with pytest.raises(Unavailable, match="no folder to mount"):
        build("unshare", Interpreter("/usr/bin/python3", ("/mnt/a", "/var/b", "/tmp/c")))


def test_the_python_of_a_virtual_environment_is_its_base():
    assert Interpreter.ask(sys.executable).path == os.path.realpath(sys.executable)
    assert sys.base_prefix in Interpreter.ask(sys.executable).prefixes


def test_an_older_python_is_refused(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nprintf '3\\n8\\n/p\\n/p\\n/p\\n'\n")
    old.chmod(0o755)
    with pytest.raises(ValueError, match=r"3\.11 or newer; '.*' is Python 3\.8"):
        Interpreter.ask(str(old))


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/a", "/a/b", False)],
)
def test_within(path, folder, inside):
    assert within(path, folder) is inside


def test_what_runs_inside_imports_nothing_of_the_project():
    source = f"import sys\nsys.argv = ['-c']\nsys.stdin.close()\n{child_source('candidate')}".replace(
        "module.main()", "print(sorted(n for n in sys.modules if n.startswith(('t2', 'json', 'typing', 'torch'))))"
    )
    shown = subprocess.run([sys.executable, *sandbox.PYTHON_FLAGS, "-c", source], capture_output=True, text=True)
    assert shown.stdout == "[]\n", shown.stderr
