"""A server that was started as a process: where it serves."""

from __future__ import annotations

import re
import subprocess


def address_of(process: subprocess.Popen[str]) -> str:
    """`http://HOST:PORT`, once it says so; AssertionError with its words if it ends before."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"Serving on (http\S+)/v1", line):
            return found[1]
    raise AssertionError("".join(seen))
