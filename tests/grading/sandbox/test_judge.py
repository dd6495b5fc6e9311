"""The code of a test, which comes with a data set: what it may do to the machine, and to the samples beside its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attacks_kernel import NUMBERS
from sandboxes import ISOLATED, executor
from test_attacks import forked_judges

from t2.grading.sandbox import isolation
from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.judge_server import JudgeServer
from t2.grading.sandbox.users import users_for
from tests.grading.sandbox.executor_setup import ADD, RIGHT

HEAD = "import ctypes, glob, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\ngot = []\n"
TRIES = {
    "network": "socket.create_connection(('127.0.0.1', PORT), 2)",
    "name service": "socket.getaddrinfo('example.org', 80)",
    "local socket": "socket.socket(socket.AF_UNIX)",
    "a file in /tmp": "open('/tmp/MARKER', 'w')",
    "a file where it starts": "open('MARKER', 'w')",
    "a file at the top": "os.mkdir('/MARKER')",
    "the library": "open(os.__file__, 'a')",
    "accounts": "open('/etc/passwd')",
    "the user's files": "open('HOME')",
    "this project": "open('SOURCE')",
    "processes": "os.listdir('/proc')",
    "devices": "open('/dev/mem')",
    "a process": "os.fork()",
    "a program": "os.posix_spawn('/usr/bin/true', ['true'], {})",
    "to be root": "os.setuid(0)",
    "who asks for grades": "os.kill(PID, 0)",
    "a keyring": "assert libc.syscall(KEYCTL, 0, -4, 1) != -1",
    "shared memory": "assert libc.shmget(0, 1 << 20, 0o1666) != -1",
    "to trace": "assert libc.ptrace(0, 0, 0, 0) != -1",
    "an attached name space": "assert libc.unshare(0x10000000) != -1",
    "memory without end": "bytearray(1 << 31)",
}


@pytest.fixture(params=ISOLATED)
def one(request) -> CodeExecutor:
    return executor(request.param)


def attempts(port: int, marker: str) -> str:
    """A setup that tries everything, and lists what worked."""
    words = {
        "PORT": str(port),
        "PID": str(os.getpid()),
        "MARKER": marker,
        "HOME": str(Path.home()),
        "SOURCE": isolation.__file__,
    }
    lines = [HEAD]
    for name, code in TRIES.items():
        filled = code.replace("KEYCTL", str(NUMBERS["keyctl"]))
        for word, meaning in words.items():
            filled = filled.replace(word, meaning)
        lines.append(f"try:\n    {filled}\n    got.append({name!r})\nexcept Exception: pass")
    lines.append("got += [k for k in os.environ if 'SECRET' in k]")
    lines.append("got += [] if os.getuid() in USERS else [os.getuid()]" if os.geteuid() == 0 else "")
    return "\n".join(lines).replace("USERS", repr(users_for(True)))


@pytest.mark.parametrize("place", ["setup", "program"])
def test_the_code_of_a_test_reaches_nothing(one, place, monkeypatch):
    """Catches a judge, or what a row imports first, that runs as t2's user and outside of a sandbox."""
    marker = f"t2marker{uuid.uuid4().hex}"
    monkeypatch.setenv("SECRET_TOKEN", "word")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = attempts(listener.getsockname()[1], marker)
        shown = "assert f(1) == 2\nassert got == [], got\n"
        test = CodeTest("f", shown, code) if place == "setup" else CodeTest("f", f"{code}\n{shown}")
        grade = one.run(RIGHT, test)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert grade.reason is None
    assert not any((Path(folder) / marker).exists() for folder in ("/tmp", "/", "."))


def test_what_a_test_tries_would_be_noticed(one):
    """That the test above can fail: an attempt that works is told."""
    assert (
        one.run(RIGHT, CodeTest("f", "assert f(1) == 2\nassert got == [], got", "got = ['a file']")).reason == "wrong"
    )


STUBBORN = (
    "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\nf(1)\ntime.sleep(600)",
    "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nf(1)\ntime.sleep(600)",
)


def test_a_judge_that_takes_too_long_is_ended_although_it_switched_its_alarm_off():
    one = executor("isolated", timeout_s=1.0)
    with ThreadPoolExecutor(2) as pool:
        grades = list(pool.map(lambda code: one.run(RIGHT, CodeTest("f", code)), STUBBORN))
    assert [grade.reason for grade in grades] == ["timeout"] * 2
    for _ in range(50):
        if not list(forked_judges()):
            break
        time.sleep(0.1)
    assert list(forked_judges()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os\nf(1)\nfor n in range(3, 20):\n    try: os.write(n, b'x' * 100)\n    except OSError: pass",
        "import os\nf(1)\nfor n in range(3, 20):\n    try:\n        for _ in range(40): os.write(n, bytes(1 << 16))\n"
        "    except OSError: pass",
        "import os, signal\nf(1)\nos.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["garbage for a verdict", "a flood", "its own end"],
)
def test_a_test_that_breaks_its_judge_is_at_fault(code):
    assert executor("isolated").run(RIGHT, CodeTest("f", code)).score == 0.0


def test_a_test_that_ends_the_server_harms_no_other_sample(one):
    """The judges of one server are one user's; whoever ends it loses his own sample."""
    code = "import os, signal\nf(1)\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(600)"
    assert one.run(RIGHT, CodeTest("f", code)).score == 0.0
    assert one.run(RIGHT, ADD).score == 1.0


def carrying(marker: str) -> list[str]:
    """The processes with a marker in their environment, judges and their server too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
    return found


def test_the_judges_end_with_the_process_that_asked_for_them():
    """Even if it had no time to say so. Catches servers that are left over after each run that was killed."""
    marker = f"t2marker{uuid.uuid4().hex}"
    source = (
        "import time\nfrom t2.grading.sandbox import isolation\n"
        f"isolation.ENVIRONMENT['T2_MARKER'] = {marker!r}\n"
        "from t2.grading.sandbox.executor import CodeExecutor\nCodeExecutor('isolated')\n"
        "print('here', flush=True)\ntime.sleep(600)"
    )
    executor("isolated")
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert process.stdout.read(4) == b"here"
    assert carrying(marker)
    process.kill()
    process.wait()
    for _ in range(100):
        if not carrying(marker):
            break
        time.sleep(0.05)
    assert carrying(marker) == []


def test_the_judges_outlive_the_thread_that_asked_first(one):
    """A sandbox ends with the thread that started it; catches a server per pool of threads."""
    servers = []
    thread = threading.Thread(target=lambda: servers.append(JudgeServer(one._sandbox)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    (server,) = servers
    control, alive = server._control, server._end.alive
    control.setblocking(False)
    with pytest.raises(BlockingIOError):  # and not the end
        control.recv(1)
    assert alive
    server._end()
