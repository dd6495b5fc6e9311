"""How t2's update grows with the model, and what it holds in memory: a row per sample against shared prompts.

Both go by one rollout of `prompts` prompts with `samples` answers each, on random tokens. Decompositions of the
1B-shaped model are random numbers of the right shapes: an SVD of it takes hours on two cores, and an update costs the
same whatever the numbers are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from rl_grow import LAYOUTS, random_rollout, update
from rl_work import Job, resident
from step_systems import load
from torch import Tensor

from t2.adapters.svd import Decomposition
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.training.optimizer import OptimizerSettings
from t2.training.rollout import Rollout


def by_model(job: Job, models: Sequence[str], prompt: int) -> list[dict[str, Any]]:
    """Seconds of one update by layout for each model; the job gives samples, new tokens, rounds and warm-up."""
    found = []
    for model in models:
        lm, adapter, optimizer = _parts(model)
        rollout = random_rollout(lm, prompt, job.samples, job.new_tokens)
        seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for number in range(job.warmup + job.steps):
            for layout in LAYOUTS:
                start = time.perf_counter()
                update(lm, adapter, optimizer, rollout, job.micro_batch_tokens, layout == "shared", 1e-3)
                if number >= job.warmup:
                    seconds[layout].append(time.perf_counter() - start)
        ratio = median(plain / shared for plain, shared in zip(*seconds.values(), strict=True))
        numbers = sum(parameter.numel() for parameter in lm.model.parameters())
        found.append({"model": model, "parameters": numbers, "seconds": seconds, "plain_to_shared": ratio})
        del lm, adapter, optimizer
    return found


def memory(job: Job, prompt: int) -> dict[str, dict[str, int]]:
    """Bytes held before an update of all prompts at once and at its peak, by layout, each in a fresh process."""
    found = {}
    for layout in LAYOUTS:
        words = json.dumps(asdict(job) | {"layout": layout, "prompt": prompt})
        done = subprocess.run([sys.executable, __file__, words], check=True, capture_output=True, text=True)
        found[layout] = json.loads(done.stdout.splitlines()[-1])
    return found


def size_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per model."""
    lines = [f"{'model':>10}{'parameters':>16}{'plain s':>10}{'shared s':>10}{'plain / shared':>16}"]
    for row in rows:
        plain, shared = (median(row["seconds"][layout]) for layout in LAYOUTS)
        line = f"{row['model']:>10}{row['parameters']:>16,}{plain:>10.3f}{shared:>10.3f}"
        lines.append(f"{line}{row['plain_to_shared']:>16.2f}")
    return "\n".join(lines)


def memory_table(found: Mapping[str, Mapping[str, int]]) -> str:
    """Megabytes by layout, and their ratios."""
    lines = [f"{'layout':>8}{'held MB':>10}{'peak MB':>10}{'of it the update':>18}"]
    spent = {layout: row["peak_bytes"] - row["held_bytes"] for layout, row in found.items()}
    for layout, row in found.items():
        held, peak = row["held_bytes"] / 1e6, row["peak_bytes"] / 1e6
        lines.append(f"{layout:>8}{held:>10,.0f}{peak:>10,.0f}{spent[layout] / 1e6:>18,.0f}")
    plain, shared = (found[layout]["peak_bytes"] for layout in LAYOUTS)
    lines.append(f"shared / plain: peak {shared / plain:.2f}, of the update {spent['shared'] / spent['plain']:.2f}")
    return "\n".join(lines)


def _parts(model: str) -> tuple[LanguageModel, SVF, torch.optim.Optimizer]:
    lm = load(model, "float32", "cpu")
    adapter = SVF(modules="all", cache=model == "smollm2", progress=False)
    with patch("t2.adapters.svf.decompose_all", _random_parts) if model == "llama-1b" else nullcontext():
        adapter.inject(lm.model, lm.source)
    return lm, adapter, torch.optim.AdamW(adapter.trainable(), lr=OptimizerSettings().lr)


def _random_parts(weights: Mapping[str, Tensor], **_: Any) -> Iterator[tuple[str, Decomposition]]:
    for name, weight in weights.items():
        n_out, n_in = weight.shape
        rank = min(n_out, n_in)
        yield name, Decomposition(torch.randn(n_out, rank) / rank, torch.ones(rank), torch.randn(rank, n_in) / rank)


def _measure_memory(job: Job, layout: str, prompt: int) -> dict[str, int]:
    """In this process: one update of everything at once."""
    lm, adapter, optimizer = _parts(job.model)
    one = random_rollout(lm, prompt, job.samples, job.new_tokens)
    rollout = _several_prompts(one, job.prompts)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS, see proc(5)
    held = resident("VmRSS")
    update(lm, adapter, optimizer, rollout, 10**9, layout == "shared", 1e-3)
    return {"held_bytes": held, "peak_bytes": resident("VmHWM")}


def _several_prompts(rollout: Rollout, count: int) -> Rollout:
    """The rollout of one prompt repeated for prompts that differ in their last token."""
    parts = [
        replace(one, prompt_ids=(*one.prompt_ids[:-1], number))
        for number in range(count)
        for one in rollout.completions
    ]
    return replace(
        rollout,
        completions=tuple(parts),
        rewards=rollout.rewards.repeat(count),
        advantages=rollout.advantages.repeat(count),
        total_samples=rollout.total_samples * count,
        total_tokens=rollout.total_tokens * count,
    )


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    layout, prompt = told.pop("layout"), told.pop("prompt")
    print(json.dumps(_measure_memory(Job(**told), layout, prompt)))
