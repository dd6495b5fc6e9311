"""Where a program that a model wrote may run: an own file system, no network, an own process table, no privileges.

Three levels, of which a probe finds what a machine allows:

    bwrap        bubblewrap, in new namespaces; a dependency brings it (`bubblewrap`)
    unshare      the same namespaces and the same file system by the tools of util-linux
    subprocess   nothing of that: limits on resources, and the user `nobody` where t2 runs as root

In the first two a program sees the system's libraries and programs, its Python and a small scratch folder; all else
does not exist, and only the scratch folder can be written. Installed packages are hidden: data sets come as packages
too, answers included. It runs without any privilege (as user 65534 where t2 runs as root), sees no process but its own,
and all of them end with the sandbox. In a plain subprocess it reads what its user may read (where that is not root's
`nobody`, even the memory of its judge), writes what its user may write, and reaches the network.

What remains at every level is the kernel's own surface: around programs from hostile hands, put a virtual machine. The
limits on memory, time and processes are in `wire`, set from inside.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from t2.grading.sandbox.bubblewrap import installed
from t2.grading.sandbox.interpreter import Interpreter, View, within

Level = Literal["bwrap", "unshare", "subprocess"]

NOBODY = 65534
SCRATCH = "/tmp"  # inside
SCRATCH_BYTES = 16 << 20
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "HOME": SCRATCH,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program that walks through a set gets one grade, not another in each run
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# -I would ignore PYTHONHASHSEED; all else that it ignores is not there, the environment being this alone.
PYTHON_FLAGS = ("-P", "-s", "-S", "-B")
_DROP = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
_DROP_ROOT = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *_DROP)
_KEPT = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # until setpriv has used them
# The shell stays, as the sandbox's first process: root, where the program is nobody, so that the program cannot leave
# the process group, or forget its parent, without being killed by the end of the shell.
_PROLOGUE = """set -e
root=$1
mount -t tmpfs -o size=1m,mode=755,nosuid,nodev tmpfs "$root"
mkdir "$root/dev"
: > "$root/dev/null"
printf %s "$2" > "$root/fstab"
mount -a -T "$root/fstab"
{links}mount -o remount,bind,ro "$root"
shift 2
unshare --root "$root" --wd {scratch} setpriv {drop} "$@"
exit
"""


class Unavailable(RuntimeError):
    """A level that this machine does not offer, and why."""


@dataclass(frozen=True)
class Sandbox:
    """A command that runs Python at one level."""

    level: Level
    command: tuple[str, ...]
    user: int | None = None

    def start(self, source: str, stdin: int, stdout: int, stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Run Python source inside, in a session of its own.

        Raises:
            OSError: the command cannot be run.
        """
        return subprocess.Popen(
            [*self.command, *PYTHON_FLAGS, "-c", source],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT,
            cwd="/",
            umask=0o022,
            start_new_session=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a sandbox and all that runs in it. The group goes first: once waited for, its number may be another's."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


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
    if level == "subprocess":
        return Sandbox(level, (python.path,), NOBODY if root else None)
    tools = [] if level == "bwrap" and not root else ["setpriv"]
    tools += [] if level == "bwrap" else ["unshare", "mount", "sh"]
    found = {tool: shutil.which(tool) or shutil.which(tool, path=ENVIRONMENT["PATH"]) for tool in tools}
    if level == "bwrap":
        found = {"bwrap": maker or next(iter(makers(level)), None), **found}
    missing = [tool for tool, path in found.items() if path is None]
    if missing:
        raise Unavailable(f"{' and '.join(missing)} not installed")
    command = (_bwrap if level == "bwrap" else _unshare)(View.of(python, packages), root)
    return Sandbox(level, (found[command[0]] or command[0], *command[1:], python.path))


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


def _bwrap(view: View, root: bool) -> list[str]:
    command = ["bwrap", "--die-with-parent", "--new-session"]
    if root:
        command += ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
        command += [part for name in _KEPT for part in ("--cap-add", name)]
    else:
        command += ["--unshare-all"]
    command += ["--size", str(SCRATCH_BYTES), "--perms", "1777", "--tmpfs", SCRATCH]
    command += _folders(*view.folders, "/dev/null")
    for folder in view.folders:
        command += ["--ro-bind", folder, folder]
    for link in view.links:
        command += ["--symlink", os.readlink(link), link]
    for folder in view.hidden:
        command += ["--size", "4096", "--perms", "0755", "--tmpfs", folder]
    command += _folders(*view.packages)
    for package in view.packages:
        command += ["--ro-bind", package, package]
    command += ["--dev-bind", "/dev/null", "/dev/null", "--chdir", SCRATCH]
    for folder in (*view.hidden, "/"):
        command += ["--remount-ro", folder]
    return [*command, "setpriv", *_DROP_ROOT] if root else command


def _folders(*paths: str) -> list[str]:
    """Arguments that make the folders on the way to paths, which bubblewrap by itself makes for their owner only."""
    parents = dict.fromkeys(str(parent) for path in paths for parent in reversed(Path(path).parents[:-1]))
    return [part for parent in parents for part in ("--perms", "0755", "--dir", parent)]


def _unshare(view: View, root: bool) -> list[str]:
    shown = (*view.folders, *view.packages)
    mount_point = next((top for top in ("/mnt", "/var", "/tmp") if not any(within(path, top) for path in shown)), None)
    if mount_point is None:
        raise Unavailable("no folder to mount its file system on: /mnt, /var and /tmp all hold Python")
    table = [("tmpfs", SCRATCH, f"tmpfs size={SCRATCH_BYTES},mode=1777,nosuid,nodev")]
    table += [(folder, folder, "none rbind,ro,nosuid") for folder in view.folders]
    table += [("tmpfs", folder, "tmpfs size=4k,nr_inodes=64,mode=755") for folder in view.hidden]
    table += [(package, package, "none rbind,ro,nosuid") for package in view.packages]
    table += [("/dev/null", "/dev/null", "none bind,nosuid")]
    lines = [f"{_field(source)} {_field(mount_point + path)} {options}" for source, path, options in table]
    fstab = "".join(f"{line}{'' if line.startswith('/dev/null') else ',X-mount.mkdir'} 0 0\n" for line in lines)
    links = f'cp -P {" ".join(view.links)} "$root"\n' if view.links else ""
    script = _PROLOGUE.format(links=links, scratch=SCRATCH, drop=" ".join(_DROP_ROOT if root else _DROP))
    namespaces = ["--net", "--pid", "--ipc", "--uts", "--mount", *([] if root else ["--user", "--map-root-user"])]
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--fork", "--kill-child=KILL"]
    return [*command, "sh", "-c", script, "sh", mount_point, fstab]


def _field(path: str) -> str:
    """A path as the mount table writes it."""
    return "".join(f"\\{ord(sign):03o}" if sign in " \t\n\\" else sign for sign in path)
