"""A real Slurm, which `make test-slurm` starts; scripts and sbatch files run on it as they are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from slurm_runs import WORDS, Run


@pytest.fixture(autouse=True, scope="session")
def _up() -> None:
    if os.environ.get("T2_SLURM_UP") is None:
        pytest.skip("No Slurm is up: `make test-slurm` starts one")


@pytest.fixture
def typed(tmp_path: Path) -> Run:
    """Run a command in an empty folder with train.py alone, and PYTHON for the interpreter."""
    paths = [str(ROOT), str(ROOT / "tests" / "slurm")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        if not (tmp_path / "train.py").exists():
            (tmp_path / "train.py").symlink_to(ROOT / "train.py")
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)

    return run


@pytest.fixture
def sweep(typed: Run) -> Run:
    """Start `train.py -m` on Slurm, with a folder `sweep`."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        own = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=10", "hydra.sweep.dir=sweep")
        return typed(sys.executable, "train.py", "-m", *own, *WORDS, *words)

    return run
