"""What the three scripts share: seconds by phase, versions, memory, and the results file.

`results.json` is the contract with scripts and dashboards (see the README; `t2.evaluation.evaluate` says what its
`data`, `reasons`, `by_group` and `pass_at_k` hold). Nothing here knows what was trained.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2.run.files import atomic_path

PACKAGES = (
    "t2",
    "torch",
    "transformers",
    "lightning",
    "hydra-core",
    "safetensors",
    "datasets",
    "reasoning-gym",
)


def versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of a checkout, with `+changes` where files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # git is missing, or this is an installed copy


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def peak_memory_bytes() -> int:
    """The largest memory this process has held: of the GPU where one was used, else resident memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_results(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Write `results.json`, with versions, commit and peak memory added and NaN as null; returns what was written."""
    full = {
        **results,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
        "git_commit": git_commit(Path(__file__).parent),
    }
    finite: dict[str, Any] = _finite(full)
    with atomic_path(folder / "results.json") as partial:
        partial.write_text(json.dumps(finite, indent=2, allow_nan=False) + "\n")
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value


SAMPLES_FILE = "samples.jsonl"
