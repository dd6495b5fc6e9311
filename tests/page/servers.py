"""Servers for a browser: `serve.py` as a process on a free port, with the real model or with the tiny one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT
from server_process import address_of


@contextmanager
def served(folder: Path, *words: str, key: str | None = None) -> Iterator[str]:
    """The address of a server that runs, without a slash at its end."""
    environment = {name: value for name, value in os.environ.items() if name != "T2_API_KEY"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({} if key is None else {"T2_API_KEY": key})
    command = [sys.executable, str(ROOT / "serve.py"), "port=0", f"hydra.run.dir={folder / 'run'}", *words]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        yield address_of(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
