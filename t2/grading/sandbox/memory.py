"""How much memory the processes of a sandbox hold, seen from outside.

Resident and shared pages and page tables; RLIMIT_AS knows neither the last, nor what several processes hold together.
Files that were mapped (the libraries of Python) do not count. What it does not do: end anybody.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmPTE:")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)  # it has just ended, or become somebody else's


def watchable() -> bool:
    """Whether this kernel says which processes a process started (CONFIG_PROC_CHILDREN)."""
    return Path("/proc/thread-self/children").exists()


def held_bytes(process: int) -> int:
    """What a process and all its descendants hold at this moment."""
    total, waiting = 0, [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        with suppress(*_GONE):
            lines = [line.split() for line in (folder / "status").read_bytes().splitlines()]
            total += sum(int(line[1]) << 10 for line in lines if line and line[0] in _COUNTED)
            for thread in (folder / "task").iterdir():
                waiting += map(int, (thread / "children").read_bytes().split())
    return total
