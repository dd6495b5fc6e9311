"""Where a program that a model wrote may run: an own file system, no network, an own process table, no privileges.

Three levels, of which a probe finds what a machine allows:

    bwrap        bubblewrap, in new namespaces; a dependency brings it (`bubblewrap`)
    unshare      the same namespaces and the same file system by the tools of util-linux
    subprocess   no namespace: limits on resources, the filter of `system_calls`, and a user of its own under root

In the first two a program sees the system's libraries and programs and its Python; all else does not exist, and nothing
can be written. Installed packages are hidden: data sets come as packages too, answers included. It runs without any
privilege (where t2 runs as root, as a user that owns nothing and that no other program was: `users`), sees no process
but its own, and all of them end with the sandbox. In a plain subprocess it reads what its user may read (where t2 is
not root, the memory of its judge too), and removes files or makes empty ones where its user may (`wire` lets no program
write into one). At every level the system calls in `system_calls` are closed, those that make a socket among them; in a
plain subprocess only on machines whose numbers it knows.

The judges of programs run in sandboxes of the same level, since their tests come with a data set.

What remains at every level is the kernel's own surface: around programs from hostile hands, put a virtual machine. The
limits on memory, time and processes are in `wire`, set from inside; `memory` watches from outside.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from t2.grading.sandbox.bubblewrap import installed
from t2.grading.sandbox.interpreter import Interpreter, View
from t2.grading.sandbox.mounts import HOME, USER, bwrap_command, unshare_command
from t2.grading.sandbox.system_calls import closing_source, filter_program
from t2.grading.sandbox.users import next_user, users_for

Level = Literal["bwrap", "unshare", "subprocess"]

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program that walks through a set gets one grade, not another in each run
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# -I would ignore PYTHONHASHSEED; all else that it ignores is not there, the environment being this alone.
PYTHON_FLAGS = ("-P", "-s", "-S", "-B")


class Unavailable(RuntimeError):
    """A level that this machine does not offer, and why."""


@dataclass(frozen=True)
class Sandbox:
    """A command that runs Python at one level.

    Every program gets a user of its own where `own_user` says so (where root starts it), and `system_calls`, the filter
    of `system_calls.filter_program`, is put on it before it begins.
    """

    level: Level
    command: tuple[str, ...]
    user: int | None = None  # who starts it, if not who we are
    own_user: bool = False
    system_calls: bytes | None = None

    def start(
        self,
        source: str,
        stdin: int,
        stdout: int,
        stderr: int | IO[bytes],
        arguments: Sequence[str] = (),
        judges: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Run Python source inside, in a session of its own; `judges` are kept apart from programs by their user.

        Raises:
            OSError: the command cannot be run.
            LookupError: there is no user to run it as.
        """
        own = next_user(users_for(judges)) if self.own_user else None
        command = [part.replace(USER, str(own)) for part in self.command]
        user = own if self.level == "subprocess" and own is not None else self.user
        with ExitStack() as held:
            passed = []
            if self.system_calls is not None and self.level == "bwrap":
                passed = [_readable(self.system_calls, held)]
                command[1:1] = ["--seccomp", str(passed[0])]
            elif self.system_calls is not None:
                source = closing_source(self.system_calls) + source
            return subprocess.Popen(
                [*command, *PYTHON_FLAGS, "-c", source, *arguments],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=ENVIRONMENT,
                cwd="/",
                umask=0o022,
                start_new_session=True,
                pass_fds=passed,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )


def _readable(data: bytes, held: ExitStack) -> int:
    """A descriptor from which another process can read a few kilobytes."""
    ours, theirs = os.pipe()
    held.callback(os.close, ours)
    with os.fdopen(theirs, "wb") as file:
        file.write(data)
    return ours


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a sandbox and all that runs in it. The group goes first: once waited for, its number may be another's."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def complaints(file: IO[bytes]) -> str:
    """The beginning of what was written to a file, in one line."""
    file.seek(0)
    return " ".join(file.read(500).decode(errors="replace").split())


def makers(level: Level) -> tuple[str, ...]:
    """The programs that can make a level, best first: every bubblewrap there is; none for levels without a choice."""
    return installed(ENVIRONMENT["PATH"]) if level == "bwrap" else ()


def build(
    level: Level,
    python: Interpreter,
    packages: tuple[str, ...] = (),
    *,
    root: bool | None = None,
    maker: str | None = None,
) -> Sandbox:
    """The sandbox of a level, not yet tried out.

    `root` says whether root is to start it (default: who we are), `maker` is one of the level's `makers` (default: the
    first).

    Raises:
        Unavailable: its tools are not installed.
    """
    root = os.geteuid() == 0 if root is None else root
    closed = filter_program()
    if level == "subprocess":
        return Sandbox(level, (python.path,), own_user=root, system_calls=closed)
    if closed is None:
        raise Unavailable(f"the numbers of system calls on {platform.machine()} are not known, so none can be closed")
    tools = [] if level == "bwrap" and not root else ["setpriv"]
    tools += [] if level == "bwrap" else ["unshare", "mount", "sh"]
    found = {tool: shutil.which(tool) or shutil.which(tool, path=ENVIRONMENT["PATH"]) for tool in tools}
    if level == "bwrap":
        found = {"bwrap": maker or next(iter(makers(level)), None), **found}
    missing = [tool for tool, path in found.items() if path is None]
    if missing:
        raise Unavailable(f"{' and '.join(missing)} not installed")
    try:
        command = (bwrap_command if level == "bwrap" else unshare_command)(View.of(python, packages), root)
    except LookupError as error:
        raise Unavailable(str(error)) from error
    command[0] = found[command[0]] or command[0]
    return Sandbox(level, (*command, python.path), own_user=root, system_calls=closed)


@functools.cache
def child_source(name: str) -> str:
    """Source for `python -c` that runs a sibling module's `main` without importing the package, or reading a file."""
    sources = {each: Path(__file__).with_name(f"{each}.py").read_text() for each in ("wire", name)}
    return (
        f"import sys\nsys.modules['child'] = type(sys)('child')\nfor name, source in {sources!r}.items():\n"
        "    module = sys.modules['child.' + name] = type(sys)('child.' + name)\n"
        "    module.__package__ = 'child'\n"
        "    exec(compile(source, name + '.py', 'exec'), module.__dict__)\n"
        "module.main()\n"
    )
