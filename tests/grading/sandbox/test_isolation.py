"""What a sandbox promises by itself, to a program that no limit of its runner holds back."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import ISOLATED, everybodys_python, processes_with, skip

from t2.grading.sandbox import bubblewrap
from t2.grading.sandbox import isolation as sandbox
from t2.grading.sandbox.interpreter import Interpreter, within
from t2.grading.sandbox.isolation import NOBODY, SCRATCH_BYTES, Sandbox, Unavailable, build, child_source, kill

ROOT = os.geteuid() == 0
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
    done = subprocess.run([*one.command, "-c", "print(1)"], capture_output=True, text=True, user=one.user)
    return None if done.stdout == "1\n" else f"exit status {done.returncode}, {' '.join(done.stderr.split())[:300]}"


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


def ask(one: Sandbox, expression: str):
    return json.loads(run(one, f"import os, sys, json\nprint(json.dumps({expression}))"))


def test_it_shows_the_system_and_nothing_else(isolated):
    top = set(ask(isolated, "os.listdir('/')"))
    assert {"usr", "tmp", "dev"} <= top
    assert not top & {"etc", "proc", "sys", "run", "home", "srv", "work"} - {Path(sys.prefix).parts[1]}
    assert ask(isolated, "os.listdir('/dev')") == ["null"]
    assert set(ask(isolated, "os.listdir('/usr')")) <= {"bin", "lib", "lib64", "local"}


def test_installed_packages_are_hidden_but_for_those_it_was_given(isolated, package):
    packages = "[n for n in __import__('glob').glob(sys.base_prefix + '/lib*/python*/*-packages/*')]"
    assert ask(isolated, packages) == []
    assert ask(isolated, f"os.listdir({str(package.parent)!r})") == ["package"]
    assert ask(isolated, f"open({str(package / 'data')!r}).read()") == "shown"


WRITES = """
import os, sys
places = {places!r} + [os.path.dirname(os.__file__), sys.base_prefix, os.path.dirname(sys.executable)]
for place in places + [root for root, _, _ in os.walk('/') if root.count('/') < 3 and not root.startswith('/tmp')]:
    try:
        open(f'{{place}}/{marker}', 'w')
        print(place)
    except OSError:
        pass
    try:
        os.chmod(place, os.stat(place).st_mode)  # should the sandbox fail, no harm is done
        print(place, 'mode')
    except OSError:
        pass
"""


def test_only_the_scratch_folder_can_be_written(isolated, package):
    marker = f"t2marker{uuid.uuid4().hex}"
    assert run(isolated, WRITES.format(places=[str(package), "/dev", "/usr", "/"], marker=marker)) == ""
    assert ask(isolated, "open('here', 'w').write('text')") == 4  # which is where it starts
    assert not any((Path(place) / marker).exists() for place in (package, "/tmp", "/usr", "/"))


def test_the_scratch_folder_is_small(isolated):
    source = """
n = 0
try:
    while n < 256:
        open(f'f{n}', 'wb').write(bytes(1 << 20))
        n += 1
except OSError:
    print(n)
"""
    assert int(run(isolated, source)) <= SCRATCH_BYTES >> 20


def test_it_has_no_privilege_and_cannot_get_any(isolated):
    source = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
def refused(call, *arguments):
    try: call(*arguments)
    except OSError: return True
print(c.prctl(39, 0, 0, 0, 0), [c.prctl(23, n, 0, 0, 0) for n in range(38)].count(1))
print(refused(os.setuid, 1), refused(os.setgroups, []), refused(os.chroot, '/usr'))
print(c.mount(b'none', b'/usr', b'tmpfs', 0, None), c.umount(b'/usr'), c.sethostname(b'x', 1))
"""
    lines = run(isolated, source).splitlines()
    assert lines[0].split()[0] == "1"  # no new privileges by running setuid programs
    assert lines[1] == "True True True"
    assert lines[2] == "-1 -1 -1"


def test_started_by_root_it_is_nobody(isolated):
    assert ask(isolated, "[os.getuid(), os.getgid(), os.getgroups()]") != [0, 0, [0]]
    if ROOT and isolated.user is None:
        assert ask(isolated, "[os.getuid(), os.getgid(), os.getgroups()]") == [NOBODY, NOBODY, []]


def test_there_is_no_network(isolated):
    assert ask(isolated, "[name for _, name in __import__('socket').if_nameindex() if name != 'lo']") == []
    source = "import socket\ntry: socket.create_connection(('192.0.2.1', 1), 2)\nexcept OSError as e: print(e.errno)"
    assert run(isolated, source) == f"{errno.ENETUNREACH}\n"


def test_the_environment_holds_nothing_of_ours(isolated, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "word")
    assert set(ask(isolated, "list(os.environ)")) <= {*sandbox.ENVIRONMENT, "PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}


STAYS = """
import os, sys, time
if {leave}:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)
else:
    os.setsid() if os.getpgid(0) != os.getpid() else None
print('here', flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("leave", [True, False], ids=["orphans", "own session"])
def test_nothing_survives_its_end(isolated, leave, monkeypatch):
    marker = f"t2marker{uuid.uuid4().hex}"
    monkeypatch.setitem(sandbox.ENVIRONMENT, "T2_MARKER", marker)
    ours, theirs = os.pipe()
    process = isolated.start(STAYS.format(leave=leave), subprocess.DEVNULL, theirs, subprocess.DEVNULL)
    os.close(theirs)
    assert os.read(ours, 4) == b"here"
    assert len(list(processes_with(marker))) >= (3 if leave else 1)
    kill(process)
    os.close(ours)
    assert gone(marker)


def test_it_ends_with_the_process_that_started_it(isolated):
    marker = f"t2marker{uuid.uuid4().hex}"
    ours, theirs = os.pipe()
    parent = f"""
import os, subprocess, sys, time
from t2.grading.sandbox import bubblewrap
from t2.grading.sandbox import isolation as sandbox
sandbox.ENVIRONMENT["T2_MARKER"] = {marker!r}
one = sandbox.Sandbox({isolated.level!r}, {isolated.command!r}, {isolated.user!r})
one.start({STAYS.format(leave=False)!r}, subprocess.DEVNULL, {theirs}, subprocess.DEVNULL)
os.close({theirs})
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], pass_fds=[theirs])
    os.close(theirs)
    assert os.read(ours, 4) == b"here"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    os.close(ours)
    assert gone(marker)


def gone(marker: str) -> bool:
    """Whether the processes with a marker end within a moment."""
    for _ in range(100):
        if not list(processes_with(marker)):
            return True
        time.sleep(0.05)
    return False


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
