"""The message that a script ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def error_of(run: Callable[[], Any], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> str:
    """What `run` shows before it ends with an exit code other than 0."""
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code not in (0, None)
    captured = capsys.readouterr()
    return f"{stopped.value.code} {caplog.text} {captured.out} {captured.err}"
