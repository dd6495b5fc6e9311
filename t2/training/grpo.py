"""GRPO: advantages relative to a prompt's samples, and a clipped importance ratio over several updates of a rollout.

    A_n  = (r_n - mean of the group) / deviation        of G samples of one prompt (Shao et al. 2024, arXiv 2402.03300)
    w_nt = p(y_nt) / p_old(y_nt)                         p_old: the policy before the first update on the rollout
    term = min(w A, clip(w, 1 - epsilon_low, 1 + epsilon_high) A)

Its variants are choices: DAPO (arXiv 2503.14476) has `epsilon_high` above `epsilon_low` and `length_norm=batch_tokens`,
Dr. GRPO (arXiv 2503.20783) `scale=none` and `length_norm=max_new_tokens`; GRPO's own is `length_norm=mean`.

p_old is taken from the first update's own forward pass and not from sampling: it costs nothing, since that pass is
needed anyway, and the ratio of the first update is then exactly 1, also where the sampler rounds otherwise than
training does (`generation.dtype`, vLLM). What the sampler differs by is `importance_cap`'s, p_old / p_sampling.

Not done here: the loop over updates (`t2.training.module`), DAPO's dynamic sampling (prompts whose samples have the
same reward have no advantage and are left out of the update; none are drawn in their place).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2.policy.log_probs import TokenLogProbs
from t2.run.messages import check_choice, check_range
from t2.training.objectives import EQUAL_REWARDS, LengthNorm, PolicyGradient, check_compared
from t2.training.rollout import Rollout
from t2.types import Sampling

DEVIATION_OFFSET = 1e-4  # added to a deviation that divides, as in TRL


@dataclass(frozen=True, kw_only=True)
class GRPO(PolicyGradient):
    """Group-relative policy optimization (arXiv 2402.03300).

    Attributes:
        scale: what divides the advantages: the deviation of the rewards of a prompt's samples (`group`), that of all
            of the step (`batch`), or nothing (`none`, Dr. GRPO).
        epsilon_low, epsilon_high: how far the ratio may fall and rise before it is clipped; infinity never clips.
        updates_per_rollout: optimizer steps on one rollout (mu), all with the learning rate of the training step. With
            1 no ratio ever differs from 1, and nothing is clipped.
    """

    reward_wrong: float = 0.0
    length_norm: LengthNorm = "mean"
    scale: Literal["group", "batch", "none"] = "group"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    updates_per_rollout: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for values that are not allowed."""
        super().__post_init__()
        check_choice("objective.scale", self.scale, ("group", "batch", "none"))
        check_range("objective.epsilon_low", self.epsilon_low, above=0)
        check_range("objective.epsilon_high", self.epsilon_high, above=0)
        check_range("objective.updates_per_rollout", self.updates_per_rollout, at_least=1)

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError for one sample per prompt, or samples that are all the same."""
        check_compared(sampling, "grpo")

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (B, G) -> advantages (B, G), float64.

        Deviations are the unbiased ones (divided by G - 1), as in TRL. Exactly 0 where all completions of a prompt that
        count have the same reward, one alone included.
        """
        rewards = rewards.double()
        dropped = truncated if self.truncated == "drop" else torch.zeros_like(truncated)
        counted = rewards.masked_fill(dropped, torch.nan)
        centered = counted - counted.nanmean(dim=1, keepdim=True)  # NaN where dropped
        lowest = rewards.masked_fill(dropped, torch.inf).amin(dim=1, keepdim=True)
        highest = rewards.masked_fill(dropped, -torch.inf).amax(dim=1, keepdim=True)
        equal = highest - lowest < EQUAL_REWARDS  # also where one is kept, or none
        if self.scale == "group":
            kept = (~dropped).sum(dim=1, keepdim=True)
            deviation = (centered.square().nansum(dim=1, keepdim=True) / (kept - 1).clamp(min=1)).sqrt()
            centered = centered / (deviation + DEVIATION_OFFSET)
        elif self.scale == "batch":
            centered = centered / (rewards[~dropped].std() + DEVIATION_OFFSET)
        return self._finish(centered.masked_fill(equal | dropped, 0.0), truncated)

    def _surrogate(self, advantages: Tensor, token: TokenLogProbs, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """The clipped terms (N, T) and how many tokens are clipped: those whose term has no gradient."""
        old = token.log_probs.detach()
        if rollout.old_log_probs is not None:
            old = pad_sequence(list(rollout.old_log_probs), batch_first=True).to(old)
        ratio = (token.log_probs - old).masked_fill(~token.mask, 0.0).exp()  # (N, T)
        bounded = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        clipped = (bounded * advantages < ratio * advantages) & token.mask
        terms = torch.minimum(ratio * advantages, bounded * advantages)
        return terms * self._sampler_weight(old, token), {"clipped": float(clipped.sum())}
