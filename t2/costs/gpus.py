"""Processors: the table of GPUs that ships (`gpus.yaml`), and the machine at hand.

A GPU's numbers are meant to be its maker's, and were not compared with its data sheets: the head of the table says
which agree with other published tables, and which are unchecked. A CPU has none that say what torch reaches on it, so
that two products and a copy are timed, which takes a second. Not done here: what they are needed for
(`t2.costs.placement`).
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import yaml

from t2.run.messages import did_you_mean

TABLE = Path(__file__).with_name("gpus.yaml")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
SIDE, COPIED = 1024, 1 << 26  # of the square matrices that are multiplied; bytes that are copied


@dataclass(frozen=True)
class GPU:
    """What a processor does at best, and the shares of it that are assumed; a CPU, too."""

    name: str
    half_flops: float  # FLOP/s of dense products in bf16, summed in fp32
    fp32_flops: float
    bandwidth: float  # bytes/s
    memory_bytes: float
    link: float = 0.0  # bytes/s into it from the other GPUs of a machine, one direction; 0: not known
    has_bfloat16: bool = True
    half_share: float = 0.4
    fp32_share: float = 0.5
    bandwidth_share: float = 0.6
    svd_share: float = 0.02  # of fp32_flops: a decomposition is small products, one after another
    is_cpu: bool = False


@cache
def gpus() -> dict[str, GPU]:
    """The table: key -> GPU."""
    made = {}
    for key, row in yaml.safe_load(TABLE.read_text()).items():
        made[key] = GPU(
            name=row["name"],
            half_flops=row["half_tflops"] * 1e12,
            fp32_flops=row["fp32_tflops"] * 1e12,
            bandwidth=row["bandwidth_gb_s"] * 1e9,
            memory_bytes=row["memory_gb"] * 1e9,
            link=row.get("link_gb_s", 0) * 1e9,
            has_bfloat16=row.get("bfloat16", True),
        )
    return made


def find_gpu(name: str) -> GPU:
    """The GPU that is meant: `h100`, `H100 SXM`, `RTX 4090`, `4090`; case and signs do not matter.

    Raises:
        ValueError: none of the table, or several.
    """
    wanted = _plain(name)
    known = {_plain(word): gpu for key, gpu in gpus().items() for word in (key, gpu.name)}
    if wanted in known:
        return known[wanted]
    found = {gpu.name: gpu for word, gpu in known.items() if wanted and wanted in word}
    if len(found) == 1:
        return next(iter(found.values()))
    keys = ", ".join(gpus())
    if found:
        raise ValueError(f"gpu is {name!r}, which may be {', '.join(found)}; allowed: {keys}.")
    raise ValueError(f"gpu is {name!r}; allowed: {keys}.{did_you_mean(wanted, known)} Others: add them to {TABLE}.")


def gpu_at_hand() -> GPU | None:
    """The GPU that torch sees, with the numbers of the table and the memory that it has; None where there is none.

    Raises:
        ValueError: the table does not have it.
    """
    if not torch.cuda.is_available():
        return None
    seen = torch.cuda.get_device_properties(0)
    wanted = _plain(seen.name.removeprefix("NVIDIA"))
    near = [gpu for key, gpu in gpus().items() if wanted.startswith(_plain(key)) or _plain(gpu.name) == wanted]
    if not near:
        raise ValueError(
            f"The GPU here is {seen.name!r}, which the table {TABLE} lacks; name one like it: gpu={next(iter(gpus()))}."
        )
    best = min(near, key=lambda gpu: abs(gpu.memory_bytes - seen.total_memory))
    return GPU(**{**vars(best), "name": seen.name, "memory_bytes": float(seen.total_memory)})


@cache
def cpu_at_hand() -> GPU:
    """This machine without a GPU; what it does is measured, so the shares of products are 1."""
    one, half = torch.ones(SIDE, SIDE), torch.ones(SIDE // 2, SIDE // 2, dtype=torch.bfloat16)
    numbers = torch.ones(COPIED // 4)
    other = torch.empty_like(numbers)
    return GPU(
        name=f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        half_flops=2 * (SIDE // 2) ** 3 / _fastest(lambda: half @ half),
        fp32_flops=2 * SIDE**3 / _fastest(lambda: one @ one),
        bandwidth=2 * COPIED / _fastest(lambda: other.copy_(numbers)),
        memory_bytes=float(_cpu_memory()),
        half_share=1.0,
        fp32_share=1.0,
        bandwidth_share=1.0,
        svd_share=0.5,
        is_cpu=True,
    )


def _cpu_memory() -> int:
    """Bytes of this machine, or what a container is allowed."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(there, int(limit)) if limit.isdecimal() else there


def _fastest(run: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    run()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
