"""A vLLM server of our own: why it does not start, and that nothing of it is left."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from served import wait_until

from t2.serving.vllm_process import started


def test_a_server_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"port": 9, "key": "k", "log_file": tmp_path / "vllm.log"}
    with (
        pytest.raises(FileNotFoundError, match=r"backend.python is '/no/python', which is no program"),
        started([], python="/no/python", **how),
    ):
        pass
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ImportError, match=r"backend=vllm needs vLLM.*backend.python.*backend.url"),
        started([], python=None, **how),
    ):
        pass
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "ValueError: no memory for $2"\nexit 3\n')
    program.chmod(0o755)
    with (
        started([], python=str(program), **how) as process,
        pytest.raises(ConnectionError, match=r"status 3 while it started: ValueError: no memory for vllm.*vllm.log"),
    ):
        process.wait(20)


def test_a_server_ends_with_what_it_started(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nsleep 300 &\necho $! > "{tmp_path}/child"\nwait\n')
    program.chmod(0o755)
    with started([], python=str(program), port=9, key="k", log_file=tmp_path / "vllm.log") as process:
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
        assert process.is_up
    assert not process.is_up
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    wait_until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])
