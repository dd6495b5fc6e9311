"""What a sandbox promises by itself, to a program that no limit of its runner holds back."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import processes_with

from t2.grading.sandbox import isolation as sandbox
from t2.grading.sandbox.isolation import Sandbox, kill
from t2.grading.sandbox.users import users_for
from tests.grading.sandbox.isolation_setup import ROOT, run


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
for place in places + [root for root, _, _ in os.walk('/') if root.count('/') < 4 or root.endswith('packages')]:
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


def test_nothing_can_be_written(isolated, package):
    marker = f"t2marker{uuid.uuid4().hex}"
    assert run(isolated, WRITES.format(places=[str(package), "/dev", "/usr", "/", "/tmp", "."], marker=marker)) == ""
    assert not any((Path(place) / marker).exists() for place in (package, "/tmp", "/usr", "/"))


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


def test_started_by_root_each_is_a_user_that_no_other_was(isolated):
    users = [tuple(ask(isolated, "[os.getuid(), os.getgid(), *os.getgroups()]")) for _ in range(2)]
    assert (0, 0, 0) not in users
    if ROOT and isolated.user is None:
        assert len(set(users)) == 2
        assert all(len(one) == 2 and all(number in users_for(False) for number in one) for one in users)


def test_there_is_no_network(isolated):
    """Without the filter, which closes sockets as well."""
    unfiltered = replace(isolated, system_calls=None)
    assert ask(unfiltered, "[name for _, name in __import__('socket').if_nameindex() if name != 'lo']") == []
    source = "import socket\ntry: socket.create_connection(('192.0.2.1', 1), 2)\nexcept OSError as e: print(e.errno)"
    assert run(unfiltered, source) == f"{errno.ENETUNREACH}\n"
    assert run(isolated, source) == f"{errno.EPERM}\n"


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
from t2.grading.sandbox.isolation import Sandbox
one = {isolated!r}
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
