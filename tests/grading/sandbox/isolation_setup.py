"""Sandboxes of each level for root and for a user, and a program's complaints."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import ISOLATED, everybodys_python, skip

from t2.grading.sandbox.interpreter import Interpreter
from t2.grading.sandbox.isolation import Sandbox, Unavailable, build, complaints, kill

ROOT = os.geteuid() == 0
NOBODY = 65534
WHO = ("root", "user") if ROOT else ("user",)


@pytest.fixture
def package() -> Iterator[Path]:
    """A package whose path has a space in it, where every user can find it."""
    with tempfile.TemporaryDirectory(prefix="with space ") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "package").mkdir()
        (folder / "package" / "data").write_text("shown")
        (folder / "other").write_text("not shown")
        yield folder / "package"


@pytest.fixture(params=[(level, who) for level in ISOLATED for who in WHO], ids="-".join)
def isolated(request, package) -> Sandbox:
    """Each level as started by root and by an ordinary user."""
    level, who = request.param
    python = Interpreter.ask(sys.executable if who == "root" else everybodys_python())
    try:
        made = build(level, python, (str(package),), root=who == "root")
        made = replace(made, user=NOBODY) if who == "user" and ROOT else made
        trouble = complaint(made)
    except (Unavailable, PermissionError) as error:  # no tools; or the package's bubblewrap in a folder closed to users
        trouble = str(error)
    if trouble is not None:
        skip(level, f"started by {who}: {trouble}")
    return made


def complaint(one: Sandbox) -> str | None:
    """Why a sandbox does not work, None if it does."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out:
        code = one.start("print(1)", subprocess.DEVNULL, out.fileno(), said).wait()
        out.seek(0)
        return None if out.read() == b"1\n" else f"exit status {code}, {complaints(said)}"


def run(one: Sandbox, source: str, check: bool = True) -> str:
    """What a program prints in a sandbox."""
    ours, theirs = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    with os.fdopen(ours, "rb") as out:
        process = one.start(source, null, theirs, subprocess.PIPE)
        os.close(theirs)
        os.close(null)
        text = out.read().decode()
        complaints = process.stderr.read().decode()
    kill(process)
    assert not check or process.returncode == 0, complaints
    return text
