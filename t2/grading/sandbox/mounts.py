"""The command lines that make a sandbox: what is mounted where, and which privileges are given away.

Nothing inside can be written: a file in memory would be memory that no limit of a process counts. What it does not do:
start anything, or choose between the two ways.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from t2.grading.sandbox.interpreter import View, within

HOME = "/tmp"  # inside, where a program starts: an empty folder
USER = "{own user}"  # in a command: the user of one start
_DROP = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
_DROP_ROOT = (f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *_DROP)
_KEPT = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # until setpriv has used them
# The shell stays, as the sandbox's first process: root, where the program is nobody, so that the program cannot leave
# the process group, or forget its parent, without being killed by the end of the shell.
_PROLOGUE = """set -e
root=$1
mount -t tmpfs -o size=1m,mode=755,nosuid,nodev tmpfs "$root"
mkdir "$root/dev" "$root{home}"
: > "$root/dev/null"
printf %s "$2" > "$root/fstab"
mount -a -T "$root/fstab"
{links}{closing}mount -o remount,bind,ro "$root"
shift 2
unshare --root "$root" --wd {home} setpriv {drop} "$@"
exit
"""


def bwrap_command(view: View, root: bool) -> list[str]:
    """The command of bubblewrap, without the program to run; `root` says who starts it."""
    command = ["bwrap", "--die-with-parent", "--new-session"]
    if root:
        command += ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
        command += [part for name in _KEPT for part in ("--cap-add", name)]
    else:
        command += ["--unshare-all"]
    command += ["--perms", "0755", "--dir", HOME, *_folders(*view.folders, "/dev/null")]
    for folder in view.folders:
        command += ["--ro-bind", folder, folder]
    for link in view.links:
        command += ["--symlink", os.readlink(link), link]
    for folder in view.hidden:
        command += ["--size", "4096", "--perms", "0755", "--tmpfs", folder]
    command += _folders(*view.packages)
    for package in view.packages:
        command += ["--ro-bind", package, package]
    command += ["--dev-bind", "/dev/null", "/dev/null", "--chdir", HOME]
    for folder in (*view.hidden, "/"):
        command += ["--remount-ro", folder]
    return [*command, "setpriv", *_DROP_ROOT] if root else command


def _folders(*paths: str) -> list[str]:
    """Arguments that make the folders on the way to paths, which bubblewrap by itself makes for their owner only."""
    parents = dict.fromkeys(str(parent) for path in paths for parent in reversed(Path(path).parents[:-1]))
    return [part for parent in parents for part in ("--perms", "0755", "--dir", parent)]


def unshare_command(view: View, root: bool) -> list[str]:
    """The command of util-linux, without the program to run; `root` says who starts it.

    Raises:
        LookupError: no folder is left to mount its file system on.
    """
    shown = (*view.folders, *view.packages)
    mount_point = next((top for top in ("/mnt", "/var", "/tmp") if not any(within(path, top) for path in shown)), None)
    if mount_point is None:
        raise LookupError("no folder to mount its file system on: /mnt, /var and /tmp all hold Python")
    table = [(folder, folder, "none rbind,ro,nosuid") for folder in view.folders]
    table += [("tmpfs", folder, "tmpfs size=4k,nr_inodes=64,mode=755") for folder in view.hidden]
    table += [(package, package, "none rbind,ro,nosuid") for package in view.packages]
    table += [("/dev/null", "/dev/null", "none bind,nosuid")]
    lines = [f"{_field(source)} {_field(mount_point + path)} {options}" for source, path, options in table]
    fstab = "".join(f"{line}{'' if line.startswith('/dev/null') else ',X-mount.mkdir'} 0 0\n" for line in lines)
    links = f'cp -P {" ".join(view.links)} "$root"\n' if view.links else ""
    closing = "".join(f'mount -o remount,bind,ro "$root"{shlex.quote(folder)}\n' for folder in view.hidden)
    drop = " ".join(map(shlex.quote, _DROP_ROOT if root else _DROP))
    script = _PROLOGUE.format(links=links, closing=closing, home=HOME, drop=drop)
    namespaces = ["--net", "--pid", "--ipc", "--uts", "--mount", *([] if root else ["--user", "--map-root-user"])]
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--fork", "--kill-child=KILL"]
    return [*command, "sh", "-c", script, "sh", mount_point, fstab]


def _field(path: str) -> str:
    """A path as the mount table writes it."""
    return "".join(f"\\{ord(sign):03o}" if sign in " \t\n\\" else sign for sign in path)
