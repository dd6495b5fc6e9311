"""t2's update by samples, prompt length and model, and its memory: a row per sample against shared prompts.

One update is what `ExpertTraining` does to a rollout: micro-batches, token log-probs, RLOO's loss, backward, clipping,
AdamW; here without Lightning, and on random tokens. Both layouts do it on the same rollout, in turns. Sampling is not
measured. Decompositions of the 1B-shaped model are random numbers of the right shapes: an SVD of it takes hours on two
cores, and an update costs the same whatever the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from measure import peak_memory, ratio, take_turns, timed
from models import inject_svf, load, random_completions
from tqdm import tqdm

from rl.job import Job
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import micro_batches
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.training.objectives import RLOO
from t2.training.optimizer import OptimizerSettings
from t2.training.rollout import Rollout

LAYOUTS = ("plain", "shared")


class Learner:
    """A model with SVF on all linears of its decoder blocks, and an optimizer."""

    def __init__(self, model: str) -> None:
        """Load the model of a `--model` choice."""
        self.lm = load(model)
        self.adapter = inject_svf(self.lm, random_factors=model == "llama-1b")
        self.settings = OptimizerSettings()
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.adapter.trainable(), lr=self.settings.lr)

    def update(self, rollout: Rollout, tokens: int, layout: str) -> float:
        """One optimizer step on the rollout in micro-batches of at most `tokens` tokens; returns the loss."""
        self.optimizer.zero_grad()
        objective, total, shared = RLOO(), 0.0, layout == "shared"
        for rows in micro_batches(rollout.completions, tokens, shared=shared):
            part = rollout.select(rows)
            loss = objective.loss(token_log_probs(self.lm, part.completions, shared=shared), part)
            loss.total.backward()  # type: ignore[no-untyped-call]
            total += loss.parts["policy"]
        torch.nn.utils.clip_grad_norm_(self.adapter.trainable(), self.settings.clip_norm)
        self.optimizer.step()
        return total

    def seconds(self, rollout: Rollout, tokens: int, rounds: int) -> dict[str, list[float]]:
        """Seconds of an update by layout and round."""
        return take_turns({layout: timed(partial(self.update, rollout, tokens, layout)) for layout in LAYOUTS}, rounds)


def compare_layouts(
    job: Job, models: Sequence[str], lengths: Sequence[int], samples: Sequence[int]
) -> list[dict[str, Any]]:
    """Seconds of an update by model, prompt length, samples and layout, and the ratio of the layouts.

    The job gives new tokens, rounds, and the warm-up updates before a model's first point. Raises ValueError where a
    prompt does not fit, or the model cannot share prompts.
    """
    found = []
    for model in models:
        learner = Learner(model)
        if not prompts_can_be_shared(learner.lm):
            raise ValueError(f"{learner.lm.source} cannot share prompts; there is nothing to compare.")
        parameters = sum(parameter.numel() for parameter in learner.lm.model.parameters())
        points = list(product(lengths, samples))
        rollouts = [random_rollout(learner.lm, length, number, job.new_tokens) for length, number in points]
        learner.seconds(rollouts[0], job.micro_batch_tokens, job.warmup)
        for (length, number), rollout in zip(tqdm(points, desc=model, leave=False), rollouts, strict=True):
            seconds = learner.seconds(rollout, job.micro_batch_tokens, job.steps)
            about = {"model": model, "parameters": parameters, "prompt_tokens": length, "samples": number}
            compared = {"seconds": seconds, "plain_to_shared": ratio(seconds["plain"], seconds["shared"])}
            found.append(about | compared)
        del learner
    return found


def measure_memory(job: Job, layout: str, prompt: int) -> dict[str, int]:
    """Bytes held before an update of all prompts at once and at its peak; OSError where there is no /proc."""
    learner = Learner(job.model)
    rollout = _several_prompts(random_rollout(learner.lm, prompt, job.samples, job.new_tokens), job.prompts)
    return peak_memory(partial(learner.update, rollout, 10**9, layout))


def random_rollout(lm: LanguageModel, prompt: int, samples: int, new_tokens: int) -> Rollout:
    """Random completions of one random prompt, every second one good; ValueError if they exceed the context."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.tensor([1.0 if number % 2 == 0 else -1.0 for number in range(samples)])
    return Rollout(
        completions=random_completions(lm, samples, prompt, new_tokens, samples, generator),
        rewards=signs,
        advantages=signs,
        temperature=1.0,
        total_samples=samples,
        total_tokens=samples * new_tokens,
        max_new_tokens=new_tokens,
    )


def _several_prompts(rollout: Rollout, number: int) -> Rollout:
    """The rollout of one prompt repeated for prompts that differ in their last token."""
    parts = [
        replace(one, prompt_ids=(*one.prompt_ids[:-1], token)) for token in range(number) for one in rollout.completions
    ]
    return replace(
        rollout,
        completions=tuple(parts),
        rewards=rollout.rewards.repeat(number),
        advantages=rollout.advantages.repeat(number),
        total_samples=rollout.total_samples * number,
        total_tokens=rollout.total_tokens * number,
    )
