"""How t2's update grows with the samples of a prompt and with its length: a row per sample against shared prompts.

One update is what `ExpertTraining` does to a rollout: micro-batches, token log-probs, RLOO's loss, backward, clipping,
AdamW; here without Lightning, and on random tokens of one prompt. Both layouts do it on the same rollout, taking turns;
ratios are medians over rounds of the ratio within a round. Sampling is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from rl_work import Job
from step_systems import Work, load
from torch.optim import Optimizer
from tqdm import tqdm

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import micro_batches
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.run.files import atomic_path
from t2.training.objectives import RLOO
from t2.training.optimizer import OptimizerSettings
from t2.training.rollout import Rollout

LAYOUTS = ("plain", "shared")


def grow(job: Job, samples: Sequence[int], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of an update by prompt length, samples and layout; the job gives model, new tokens, rounds and warm-up.

    Raises:
        ValueError: a prompt does not fit, or the model cannot share prompts.
    """
    lm = load(job.model, "float32", "cpu")
    if not prompts_can_be_shared(lm):
        raise ValueError(f"{lm.source} cannot share prompts; there is nothing to compare.")
    adapter = SVF(modules="all", cache=job.model != "tiny", progress=False)
    adapter.inject(lm.model, lm.source)
    settings = OptimizerSettings()
    optimizer = torch.optim.AdamW(adapter.trainable(), lr=settings.lr)
    points = [(length, count) for length in lengths for count in samples]
    rollouts = [random_rollout(lm, length, count, job.new_tokens) for length, count in points]
    for _ in range(job.warmup):
        update(lm, adapter, optimizer, rollouts[0], job.micro_batch_tokens, False, settings.clip_norm)
    found = []
    for (length, count), rollout in zip(tqdm(points, desc="points", leave=False), rollouts, strict=True):
        seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for _ in range(job.steps):
            for layout in LAYOUTS:
                start = time.perf_counter()
                update(lm, adapter, optimizer, rollout, job.micro_batch_tokens, layout == "shared", settings.clip_norm)
                seconds[layout].append(time.perf_counter() - start)
        ratio = median(plain / shared for plain, shared in zip(*seconds.values(), strict=True))
        found.append({"prompt_tokens": length, "samples": count, "seconds": seconds, "plain_to_shared": ratio})
    return found


def random_rollout(lm: LanguageModel, prompt: int, samples: int, new_tokens: int) -> Rollout:
    """Random answers to one random prompt; every second one is good.

    Raises:
        ValueError: prompt and answer exceed the model's context.
    """
    completions = Work.random(lm, samples, prompt, new_tokens).completions
    answers = tuple(replace(one, prompt_ids=completions[0].prompt_ids) for one in completions)
    signs = torch.tensor([1.0 if number % 2 == 0 else -1.0 for number in range(samples)])
    return Rollout(
        completions=answers,
        rewards=signs,
        advantages=signs,
        temperature=1.0,
        total_samples=samples,
        total_tokens=samples * new_tokens,
        max_new_tokens=new_tokens,
    )


def update(
    lm: LanguageModel, adapter: SVF, optimizer: Optimizer, rollout: Rollout, tokens: int, shared: bool, clip_norm: float
) -> float:
    """One optimizer step on the rollout in micro-batches of at most `tokens` tokens; returns the loss."""
    optimizer.zero_grad()
    objective, total = RLOO(), 0.0
    for rows in micro_batches(rollout.completions, tokens, shared=shared):
        part = rollout.select(rows)
        loss = objective.loss(token_log_probs(lm, part.completions, shared=shared), part)
        loss.total.backward()  # type: ignore[no-untyped-call]
        total += loss.parts["policy"]
    torch.nn.utils.clip_grad_norm_(adapter.trainable(), clip_norm)
    optimizer.step()
    return total


def grow_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of both layouts, and ratios to plain rows and to one sample; one line per point."""
    head = f"{'prompt':>7}{'samples':>9}{'plain s':>10}{'shared s':>10}{'plain / shared':>16}"
    lines = [head + f"{'plain / fewest':>16}{'shared / fewest':>17}"]
    for row in rows:
        plain, shared = (median(row["seconds"][layout]) for layout in LAYOUTS)
        first = next(one for one in rows if one["prompt_tokens"] == row["prompt_tokens"])  # the fewest samples
        growth = [value / median(first["seconds"][name]) for value, name in zip((plain, shared), LAYOUTS, strict=True)]
        line = f"{row['prompt_tokens']:>7}{row['samples']:>9}{plain:>10.4f}{shared:>10.4f}"
        lines.append(f"{line}{row['plain_to_shared']:>16.2f}{growth[0]:>16.2f}{growth[1]:>17.2f}")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds of an update, and the ratio of the layouts, over the samples of a prompt."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, length in enumerate(sorted({row["prompt_tokens"] for row in rows})):
        line = [row for row in rows if row["prompt_tokens"] == length]
        samples, color = [row["samples"] for row in line], f"C{number}"
        for layout, style in zip(LAYOUTS, ("--", "-"), strict=True):
            seconds = [median(row["seconds"][layout]) for row in line]
            left.plot(samples, seconds, style, color=color, marker=".", label=f"{layout}, prompt of {length}")
        ratios = [row["plain_to_shared"] for row in line]
        right.plot(samples, ratios, color=color, marker=".", label=f"prompt of {length}")
    left.set(xlabel="samples per prompt", ylabel="seconds per update", xscale="log", yscale="log")
    right.axhline(1.0, color="gray", linewidth=0.8)
    right.set(xlabel="samples per prompt", ylabel="plain rows / shared prompts", xscale="log")
    for axes in (left, right):
        ticks = sorted({row["samples"] for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    with atomic_path(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix(".") or "png", dpi=150)
