"""What every bench does beside measuring: counts from the command line, what it ran on, a JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2.models.loading import parse_device
from t2.run.files import atomic_path
from t2.run.results import git_commit, versions

ROOT = Path(__file__).resolve().parent.parent
NO_ARGUMENTS = ("output", "one")  # say where a result goes or which part of it is made, not what is measured


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    gpu = torch.cuda.get_device_name(parse_device(device)) if parse_device(device).type == "cuda" else None
    return {"cpu": names[0] if names else platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked to be measured."""
    return {key: value for key, value in vars(args).items() if key not in NO_ARGUMENTS}


def origin(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions and commit that numbers come from."""
    return {"machine": machine(device), "versions": versions(), "git_commit": git_commit(ROOT)}


def write(result: Mapping[str, Any], path: Path | None) -> None:
    """Write a result as JSON, if there is a path for it; what JSON has no form for (paths) as text."""
    if path is not None:
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(result, indent=1, default=str) + "\n")


def count(text: str, at_least: int = 1) -> int:
    """A whole number of the command line.

    Raises:
        argparse.ArgumentTypeError: it is none, or below `at_least`.
    """
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: {at_least} or more")
    return int(text)


def counts(text: str) -> list[int]:
    """Whole numbers, comma-separated.

    Raises:
        argparse.ArgumentTypeError: as for one.
    """
    return [count(part) for part in text.split(",")]
