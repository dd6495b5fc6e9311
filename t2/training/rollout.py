"""Records of a training step: the rollout that it learns from, and its loss."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2.types import Completion, Example, Grade, Sampling

log = logging.getLogger(__name__)
# Share of completions that were cut off and have an advantage above 0.
TRUNCATED_REWARDED = "rollout/truncated_rewarded"
CUT_OFF_SHARE = 0.1


@dataclass(frozen=True)
class Rollout:
    """The data of one training step: N completions of B examples, G each, ordered by example.

    `rewards` are the objective's rewards (after its map), `advantages` the weights of the policy gradient.
    `old_log_probs` are those of the policy before the first of several updates. `total_*` describe the whole rollout
    and stay the same in every `select`ed part, so that losses of micro-batches add up to the loss of the whole.
    """

    completions: tuple[Completion, ...]  # N
    rewards: Tensor  # (N,)
    advantages: Tensor  # (N,)
    temperature: float
    total_samples: int
    total_tokens: int
    max_new_tokens: int
    old_log_probs: tuple[Tensor, ...] | None = None  # N of (T_n,); None in the first update on this rollout

    def __post_init__(self) -> None:
        """Check that all parts have N entries."""
        n = len(self.completions)
        assert self.rewards.shape == (n,), f"rewards {tuple(self.rewards.shape)}, expected ({n},)"
        assert self.advantages.shape == (n,), f"advantages {tuple(self.advantages.shape)}, expected ({n},)"

    def select(self, rows: Sequence[int]) -> Rollout:
        """The part of this rollout made of the given completions; totals stay those of the whole."""
        index = list(rows)
        return replace(
            self,
            completions=tuple(self.completions[i] for i in index),
            rewards=self.rewards[index],
            advantages=self.advantages[index],
            old_log_probs=None if self.old_log_probs is None else tuple(self.old_log_probs[i] for i in index),
        )

    def after_update(self, log_probs: Mapping[int, Tensor]) -> Rollout:
        """This rollout for the next update, given the log-probs (T_n,) by the completion's number in the first.

        Completions that the first update left out (without an advantage) are left out of the others, too.
        """
        none = torch.zeros(0)
        return replace(self, old_log_probs=tuple(log_probs.get(n, none) for n in range(len(self.completions))))


def warn_of_flat_steps(steps: int, rollout: Rollout, *, members: bool) -> None:
    """Say in the log that nothing has been learned for some steps; `members` of a population were compared."""
    what, wider = "completions of a prompt", "sampling.samples or temperature"
    if members:
        what, wider = "members of the population", "objective.sigma or prompts_per_step"
    log.warning(
        "For %d steps all %s have had the same reward (mean %.2f): nothing is learned. The task may be too easy or too "
        "hard for this model; raise %s, or choose another task.",
        steps,
        what,
        float(rollout.rewards.mean()),
        wider,
    )


def warn_of_cut_off(metrics: Mapping[str, float], max_new_tokens: int) -> None:
    """Say in the log that completions were reinforced whose end nobody has seen: it may be graded otherwise."""
    share = metrics.get(TRUNCATED_REWARDED, 0.0)
    if share > CUT_OFF_SHARE:
        log.warning(
            "%.0f %% of the last step's completions were cut off at sampling.max_new_tokens=%d and yet better than "
            "others: what would have followed was not graded, so that the expert may learn to go on. Raise it, or set "
            "objective.truncated=wrong.",
            100 * share,
            max_new_tokens,
        )


@dataclass(frozen=True)
class StepRecord:
    """The completions of the latest step and their grades, for tables and logs."""

    step: int
    examples: Sequence[Example]
    completions: Sequence[Sequence[Completion]]  # B x G
    scores: Tensor  # (B, G)
    grades: Sequence[Sequence[Grade]]  # B x G


def rollout_metrics(step: StepRecord, rewards: Tensor, advantages: Tensor, truncated: Tensor) -> dict[str, float]:
    """What the loggers get of a step's completions; rewards, advantages and truncation flags are (B, G)."""
    lengths = torch.tensor([float(len(c.token_ids)) for group in step.completions for c in group])
    reasons = Counter(one.reason for group in step.grades for one in group if one.reason is not None)
    return {
        "train/score": float(step.scores.mean()),
        "train/reward": float(rewards.mean()),
        "train/reward_std": float(rewards.std(correction=0)),
        "train/informative_prompts": float((advantages != 0).any(dim=1).float().mean()),
        "rollout/length": float(lengths.mean()),
        "rollout/length_max": float(lengths.max()),
        "rollout/tokens": float(lengths.sum()),
        "rollout/truncated": float(truncated.float().mean()),
        TRUNCATED_REWARDED: float((truncated & (advantages > 0)).float().mean()),
        **{f"reasons/{reason}": count / len(lengths) for reason, count in reasons.items()},  # those of this step
    }


@dataclass(frozen=True)
class Loss:
    """A loss to call `backward` on, and its named parts as floats, for the log."""

    total: Tensor  # ()
    parts: Mapping[str, float]


def as_rollout(completions: Sequence[Completion], rewards: Tensor, advantages: Tensor, sampling: Sampling) -> Rollout:
    """The rollout of B x G completions with rewards and advantages (B, G), sampled as `sampling` says."""
    return Rollout(
        completions=tuple(completions),
        rewards=rewards.flatten(),
        advantages=advantages.flatten(),
        temperature=sampling.scoring_temperature,
        total_samples=len(completions),
        total_tokens=sum(len(one.token_ids) for one in completions),
        max_new_tokens=sampling.max_new_tokens,
    )


def rollout_seed(seed: int, step: int) -> int:
    """The seed of what is random in a step."""
    return seed * 1_000_003 + step
