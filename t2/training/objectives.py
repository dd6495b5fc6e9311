"""Objectives: from scores to rewards, from rewards to advantages, from advantages and log-probs to a loss.

    Reinforce   the paper's: reward ±1, no baseline, sum over tokens, KL to the base over the full vocabulary (Eq. 1)
    RLOO        G samples per prompt, each compared with the mean of the other G - 1 (arXiv 2402.14740)
    SFT         the reference answer with advantage 1: next-token fine-tuning (paper, Table 4 rows 4 and 6)
    elsewhere   `t2.training.grpo`, and `t2.training.es`, which has no loss

Every choice in which published variants differ is an argument, and its docstring names the paper's value. A loss is a
sum over completions with weights fixed by the *whole* rollout, so the losses of micro-batches add up to it exactly.
Log-probs come from `t2.policy.log_probs`, and scores in [0, 1] from the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from t2.policy.log_probs import KLDirection, TokenLogProbs
from t2.training.rollout import Loss, Rollout
from t2.types import Sampling

LengthNorm = Literal["none", "mean", "batch_tokens", "max_new_tokens"]
Truncated = Literal["keep", "wrong", "drop"]
CHOICES: Mapping[str, tuple[str, ...]] = {
    "kl_direction": ("policy_base", "base_policy"),
    "length_norm": ("none", "mean", "batch_tokens", "max_new_tokens"),
    "truncated": ("keep", "wrong", "drop"),
    "batch_norm": ("none", "center", "standardize"),
}
EQUAL_REWARDS = 1e-6  # rewards that differ by less are the same: AdamW would make whole steps of rounding noise


@runtime_checkable
class Objective(Protocol):
    """Rewards, advantages and the loss of completions."""

    on_policy: bool  # completions come from the policy (True) or are reference answers (False)
    kl_coefficient: float
    kl_direction: KLDirection
    updates_per_rollout: int  # optimizer steps on the completions of one training step

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError where the objective cannot use completions sampled like this."""
        ...

    def rewards(self, scores: Tensor, truncated: Tensor) -> Tensor:
        """Scores (B, G) in [0, 1] and truncation flags (B, G) -> rewards (B, G)."""
        ...

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (B, G) -> weights of the policy gradient (B, G)."""
        ...

    def loss(self, token: TokenLogProbs, rollout: Rollout) -> Loss:
        """The loss of some completions of a rollout; the parts' losses add up to the whole's."""
        ...


def check_compared(sampling: Sampling, objective: str) -> None:
    """Raise ValueError for one sample per prompt, or samples that are all the same."""
    if sampling.samples < 2:
        raise ValueError(
            f"objective={objective} compares samples of one prompt and got 1; set sampling.samples to 2 or more, "
            "or use objective=reinforce."
        )
    if sampling.temperature == 0.0:
        raise ValueError(
            f"objective={objective} compares samples of one prompt, which are all the same at sampling.temperature=0; "
            "set it above 0, or use objective=reinforce sampling.samples=1."
        )


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """The parts common to all objectives: reward map, length normalization, truncation, KL.

    Attributes:
        reward_right, reward_wrong: the rewards of score 1 and 0; scores between are mapped linearly. Paper: 1 and -1
            (vision: -0.1 for a wrong answer, Appendix A.1).
        kl_coefficient: lambda of Eq. 1. Paper: chosen among 0, 0.1, 0.2, 0.3; the authors' code: 0.
        kl_direction: `policy_base` is the paper's KL(policy || base); `base_policy` what the authors' code computes.
        length_norm: a completion's log-prob is summed over tokens (`none`, paper) or divided by its own length
            (`mean`), by the rollout's mean length (`batch_tokens`, as DAPO) or by the budget (`max_new_tokens`,
            as Dr. GRPO).
        advantage_clip: bound on |advantage|; None is the paper's.
        importance_cap: weigh each token by min(p_training / p_sampling, cap), for rollouts by an engine whose
            log-probs differ from the trainer's (truncated importance sampling); None is the paper's.
        truncated: completions cut off by the budget count as they are (`keep`, paper), as wrong, or for the KL alone.
    """

    on_policy = True
    updates_per_rollout = 1
    reward_right: float = 1.0
    reward_wrong: float = -1.0
    kl_coefficient: float = 0.0
    kl_direction: KLDirection = "policy_base"
    length_norm: LengthNorm = "none"
    advantage_clip: float | None = None
    importance_cap: float | None = None
    truncated: Truncated = "keep"

    def __post_init__(self) -> None:
        """Raise ValueError for a choice that does not exist."""
        for name, allowed in CHOICES.items():
            got = getattr(self, name, allowed[0])
            if got not in allowed:
                raise ValueError(f"objective.{name} is {got!r}; allowed: {', '.join(allowed)}.")
        if not self.kl_coefficient >= 0:  # NaN too
            raise ValueError(f"objective.kl_coefficient is {self.kl_coefficient}; allowed: 0 or above.")
        if not self.reward_right > self.reward_wrong:
            raise ValueError(
                f"objective.reward_right ({self.reward_right}) must exceed reward_wrong ({self.reward_wrong})."
            )
        for name in ("advantage_clip", "importance_cap"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"objective.{name} is {bound}; allowed: above 0, or null for no bound.")

    def check_sampling(self, sampling: Sampling) -> None:
        """Accept any sampling."""

    def rewards(self, scores: Tensor, truncated: Tensor) -> Tensor:
        """Scores (B, G) in [0, 1] -> rewards (B, G), float64, between reward_wrong and reward_right."""
        assert scores.shape == truncated.shape, f"{tuple(scores.shape)} against {tuple(truncated.shape)}"
        scores = scores.double()
        if self.truncated == "wrong":
            scores = scores.masked_fill(truncated, 0.0)
        return self.reward_wrong + (self.reward_right - self.reward_wrong) * scores

    def loss(self, token: TokenLogProbs, rollout: Rollout) -> Loss:
        """-(1/N) sum_n A_n sum_t log p_nt + kl_coefficient (1/N) sum_n sum_t KL_nt, N of the whole rollout."""
        n, length = token.log_probs.shape
        assert token.mask.shape == (n, length), f"mask {tuple(token.mask.shape)}, expected {(n, length)}"
        advantages = rollout.advantages.to(token.log_probs)  # (N,)
        assert advantages.shape == (n,), f"{n} completions with {tuple(advantages.shape)} advantages"
        mask = token.mask.to(token.log_probs.dtype)
        weight = mask * self._token_weight(mask, rollout)  # (N, T)
        surrogate, parts = self._surrogate(advantages[:, None], token, rollout)
        policy = -(weight * surrogate).sum() / rollout.total_samples
        parts = {"policy": policy.item(), **parts}
        total = policy
        if token.kl is not None:
            kl = (weight * token.kl).sum() / rollout.total_samples
            parts["kl"] = kl.item()
            if self.kl_coefficient > 0:
                total = total + self.kl_coefficient * kl
        return Loss(total, parts)

    def _surrogate(self, advantages: Tensor, token: TokenLogProbs, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """What is maximized at each token (N, T), of advantages (N, 1), and further parts of the loss for the log."""
        return advantages * self._sampler_weight(token.log_probs.detach(), token) * token.log_probs, {}

    def _sampler_weight(self, log_probs: Tensor, token: TokenLogProbs) -> Tensor | float:
        """min(p / p_sampling, importance_cap) of log-probs log p (N, T) without a gradient; 1 where there is no cap."""
        if self.importance_cap is None:
            return 1.0
        return (log_probs - token.sampled).exp().clamp(max=self.importance_cap)

    def _token_weight(self, mask: Tensor, rollout: Rollout) -> Tensor | float:
        """The factor of each token's term: (N, 1) or a number."""
        if self.length_norm == "mean":
            return 1.0 / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        if self.length_norm == "batch_tokens":
            return rollout.total_samples / rollout.total_tokens
        return 1.0 / rollout.max_new_tokens if self.length_norm == "max_new_tokens" else 1.0

    def _finish(self, advantages: Tensor, truncated: Tensor) -> Tensor:
        """Clip, then set dropped completions to 0; (B, G) -> (B, G)."""
        if self.advantage_clip is not None:
            advantages = advantages.clamp(-self.advantage_clip, self.advantage_clip)
        return advantages.masked_fill(truncated, 0.0) if self.truncated == "drop" else advantages


@dataclass(frozen=True, kw_only=True)
class Reinforce(PolicyGradient):
    """REINFORCE as in the paper: the advantage is the reward itself.

    `batch_norm` subtracts the batch's mean reward (`center`) and divides by its standard deviation (`standardize`,
    `rw_norm` of the authors' code, off by default there); `none` is the paper's. Where all rewards of the batch are
    equal, both give exactly 0.
    """

    batch_norm: Literal["none", "center", "standardize"] = "none"

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (B, G) -> advantages (B, G), float64."""
        rewards = rewards.double()
        if self.batch_norm == "none":
            return self._finish(rewards, truncated)
        kept = rewards[~truncated] if self.truncated == "drop" else rewards
        if not kept.numel() or kept.max() - kept.min() < EQUAL_REWARDS:
            return torch.zeros_like(rewards)
        advantages = rewards - kept.mean()
        if self.batch_norm == "standardize":
            advantages = advantages / kept.std()
        return self._finish(advantages, truncated)


@dataclass(frozen=True, kw_only=True)
class RLOO(PolicyGradient):
    """REINFORCE with a leave-one-out baseline: unbiased, less variance (Ahmadian et al. 2024, arXiv 2402.14740)."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError for one sample per prompt, or samples that are all the same."""
        check_compared(sampling, "rloo")

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (B, G) -> advantages (B, G), float64.

        Exactly 0 for a completion that has none to be compared with, and where all of a prompt have the same reward.
        """
        assert rewards.shape[1] > 1, "RLOO leaves one of G samples out; G = 1 leaves nothing"
        rewards = rewards.double()
        kept = ~truncated if self.truncated == "drop" else torch.ones_like(truncated)
        counted = rewards * kept
        others = (kept.sum(dim=1, keepdim=True) - kept.long()).clamp(min=1)  # (B, G), how many each is compared with
        baseline = (counted.sum(dim=1, keepdim=True) - counted) / others
        lowest = rewards.masked_fill(~kept, torch.inf).amin(dim=1, keepdim=True)
        highest = rewards.masked_fill(~kept, -torch.inf).amax(dim=1, keepdim=True)
        equal = highest - lowest < EQUAL_REWARDS  # also where one is kept, or none
        return self._finish((rewards - baseline).masked_fill(equal, 0.0), truncated)


@dataclass(frozen=True, kw_only=True)
class SFT(PolicyGradient):
    """Supervised fine-tuning on the reference answers, end of turn included; scores do not count."""

    on_policy = False

    def __post_init__(self) -> None:
        """Raise ValueError for options that need sampled completions."""
        super().__post_init__()
        if self.importance_cap is not None:
            raise ValueError("objective.importance_cap is for sampled completions; reference answers have no sampler.")

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError for several samples, or a temperature other than 1."""
        if sampling.samples != 1 or sampling.scoring_temperature != 1.0:
            raise ValueError(
                f"objective=sft learns the one reference answer; got sampling.samples={sampling.samples} and "
                f"temperature={sampling.temperature}. Set sampling.samples=1 sampling.temperature=1."
            )

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """(B, G) ones: every reference answer counts the same."""
        return self._finish(torch.ones_like(rewards, dtype=torch.float64), truncated)
