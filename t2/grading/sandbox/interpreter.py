"""Which Python runs a model's programs, and what of the file system it needs to see.

What it does not do: start anything but that Python, once, to ask where it lives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from glob import glob

_ASK = (
    "import os, sys; "
    "print(*sys.version_info[:2], os.path.realpath(sys.executable), sys.base_prefix, sys.base_exec_prefix, sep='\\n')"
)


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs programs, and the folders that hold it."""

    path: str
    prefixes: tuple[str, ...]

    @classmethod
    def ask(cls, python: str) -> Interpreter:
        """The Python behind a name or path, a virtual environment's base.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is older than 3.11, or no Python.
        """
        found = shutil.which(python)
        if found is None:
            raise FileNotFoundError(f"There is no Python at {python!r} to run programs with: give its path.")
        asked = subprocess.run([os.path.realpath(found), "-I", "-S", "-c", _ASK], capture_output=True, text=True)
        lines = asked.stdout.splitlines()
        if len(lines) != 5 or (int(lines[0]), int(lines[1])) < (3, 11):
            got = f"Python {lines[0]}.{lines[1]}" if len(lines) == 5 else "no Python"
            raise ValueError(f"Programs are run by Python 3.11 or newer; {python!r} is {got}.")
        return cls(lines[2], tuple(dict.fromkeys(lines[3:])))


@dataclass(frozen=True)
class View:
    """What a sandbox shows of the file system, everything where it is outside and read-only."""

    folders: tuple[str, ...]
    links: tuple[str, ...]  # symbolic links at the top, such as /lib
    hidden: tuple[str, ...]  # within the folders, but shown empty
    packages: tuple[str, ...]  # shown although their folder is hidden

    @classmethod
    def of(cls, python: Interpreter, packages: tuple[str, ...]) -> View:
        """The system's programs and libraries, a Python, and some of its packages."""
        tops = ("/bin", "/lib", "/lib64")
        system = ("/usr/bin", "/usr/lib", "/usr/lib64", *(top for top in tops if not os.path.islink(top)))
        folders = [folder for folder in system if os.path.isdir(folder)]
        for folder in (*python.prefixes, os.path.dirname(python.path)):
            if folder != "/usr" and not any(within(folder, other) for other in folders):
                folders.append(folder)
        patterns = ("python*/*-packages", "lib*/python*/*-packages")
        hidden = [path for folder in folders for pattern in patterns for path in sorted(glob(f"{folder}/{pattern}"))]
        links = tuple(top for top in tops if os.path.islink(top))
        return cls(tuple(folders), links, tuple(hidden), packages)


def within(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies in it."""
    return os.path.commonpath((path, folder)) == folder
