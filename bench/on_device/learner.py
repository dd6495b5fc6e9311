"""A training loop of t2's own parts: rollout, scores, update. One step is a function of its number.

The Lightning module adds logging, checkpoints and callbacks to these (`t2.training.module`), and imports more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.costs.step import Work
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.training.objectives import RLOO
from t2.training.optimizer import OptimizerSettings
from t2.training.policy_gradient import accumulate_gradient
from t2.training.rollout import Rollout
from t2.types import Completion, Example, Sampling


@dataclass
class Learner:
    """A model, an adapter and an optimizer."""

    lm: LanguageModel
    svf: SVF
    work: Work

    def __post_init__(self) -> None:
        """Make the optimizer."""
        self.optimizer, self.schedule = OptimizerSettings(lr=2e-3).build(self.svf.trainable(), 100)
        self.generator = HFGenerator(self.lm, self.svf, batch_rows=self.work.rows)
        self.objective: Any = RLOO()  # frozen, where the protocol's attributes are not

    @property
    def questions(self) -> list[Example]:
        """Prompts of as many tokens as asked for, a byte each (a few more for the chat template)."""
        overhead = len(self.lm.encode(Example("")))
        length = max(2, self.work.prompt_tokens - overhead)
        return [Example(f"{n:02d}".ljust(length, "x")) for n in range(self.work.prompts)]

    def sampling(self, step: int) -> Sampling:
        """How the step's completions are sampled."""
        work = self.work
        return Sampling(max_new_tokens=work.new_tokens, temperature=1.0, samples=work.samples, seed=step)

    def rollout(self, step: int) -> list[list[Completion]]:
        """B lists of G completions under merged weights."""
        return self.generator.generate(self.questions, self.sampling(step))

    def score(self, completions: Sequence[Sequence[Completion]]) -> Rollout:
        """A rollout whose reward is the share of even tokens, as if a task had graded it."""
        scores = torch.tensor([[_even(one) for one in group] for group in completions])  # (B, G)
        rewards = self.objective.rewards(scores, torch.zeros_like(scores, dtype=torch.bool))
        advantages = self.objective.advantages(rewards, torch.zeros_like(scores, dtype=torch.bool))
        flat = tuple(one for group in completions for one in group)
        tokens = sum(len(one.token_ids) for one in flat)
        return Rollout(flat, rewards.flatten(), advantages.flatten(), 1.0, len(flat), tokens, self.work.new_tokens)

    def update(self, rollout: Rollout, *, shared: bool = True) -> dict[str, float]:
        """One gradient step."""
        self.optimizer.zero_grad()
        metrics = accumulate_gradient(
            self.lm, self.svf, self.objective, rollout, with_kl=False, share_prompts=shared,
            micro_batch_tokens=self.work.micro_batch_tokens, backward=_backward,
        )  # fmt: skip
        self.optimizer.step()
        self.schedule.step()
        return metrics

    def step(self, step: int) -> dict[str, float]:
        """Rollout, scores and update of one step."""
        return self.update(self.score(self.rollout(step)))

    def save(self, path: Path) -> None:
        """What a checkpoint holds."""
        parts: dict[str, Any] = {"adapter": self.svf, "optimizer": self.optimizer, "schedule": self.schedule}
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)

    def load(self, path: Path) -> None:
        """The inverse of `save`, as Lightning reads it: on the CPU first."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.svf.load_state_dict(saved["adapter"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])


def _even(completion: Completion) -> float:
    return sum(token % 2 == 0 for token in completion.token_ids) / len(completion.token_ids)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
