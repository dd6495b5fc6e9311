"""A script of t2 whose job takes milliseconds: that of the bench that kills sweeps, and others by the same settings."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from t2.run.launch import launch

kill_sweep = importlib.import_module("kill_sweep")
Body = Callable[[DictConfig], Any]


class Script:
    """Starts jobs below a folder, in this process."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        (folder / "conf").mkdir()
        (folder / "conf" / "job.yaml").write_text(kill_sweep.CONF)
        (folder / "conf" / "paths").symlink_to(ROOT / "conf" / "paths")
        self.begun: list[int] = []

    def __call__(self, *arguments: str, body: Body = kill_sweep.job) -> int:
        """The exit code of the script; `begun` then are the numbers of the jobs that have begun."""
        log = self.folder / "begun.txt"
        log.write_text("")
        self.patch.setattr(sys, "argv", ["job.py", *arguments, f"begun={log}"])
        handlers = list(logging.getLogger().handlers)
        try:
            launch(body, conf=self.folder / "conf", name="job")
            return 0
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            return 1 if isinstance(ended.code, str) else int(ended.code or 0)
        finally:
            GlobalHydra.instance().clear()
            logging.getLogger().handlers = handlers  # Hydra replaces them
            self.begun = [int(line) for line in log.read_text().split()]
