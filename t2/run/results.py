"""Names of the files in a run folder, and the provenance of a result: versions, commit, peak memory.

What `results.json` holds is said by `t2.evaluation.results`. Nothing here knows what was trained.
"""

from __future__ import annotations

import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path

import t2
from t2.run.files import parse_json
from t2.run.places import ROOT, is_checkout

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"
METRICS_FILE = "metrics.csv"
CURVE_FILE = "learning_curve.png"
CENTROIDS_FILE = "centroids.safetensors"  # its name in a run's folder and in a folder of experts
ADAPTATION_FILE, CONFUSION_FILE = "adaptation.csv", "confusion.csv"  # of the callback that evaluates while training

PACKAGES = (
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
    found = {"python": sys.version.split()[0], "t2": t2.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def own_commit() -> str | None:
    """The commit of the checkout that runs; None of an installed copy, which may lie in a repository of its user's."""
    return git_commit(ROOT) if is_checkout() else None


def git_commit(folder: Path) -> str | None:
    """The commit of a checkout, with `+changes` where files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # git is missing, or this is no repository


def read_headline(folder: Path) -> float | None:
    """The one score of the run that finished in `folder`; None where it has none.

    Raises:
        ValueError: its results.json is damaged.
    """
    path = folder / RESULTS_FILE
    content = parse_json(path.read_bytes(), f"{path} is damaged: it", "Delete it, and run the script again.")
    score = content.get("headline") if isinstance(content, dict) else None
    return None if score is None else float(score)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def peak_memory_bytes() -> int:
    """The largest memory this process has held: of the GPU where one was used, else resident memory."""
    import torch  # not above: what names files is imported by `t2 train --help`, too

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
