"""The policy gradient of one rollout, accumulated over micro-batches (paper §3.1, Eq. 1).

    rollout -> completions with an advantage -> micro-batches by tokens -> log-probs -> loss -> backward

Where the KL to the base is only logged, it is estimated on a few completions: its gradient is not wanted, and two
forward passes of them all would cost as much as the step. Sampling, grading, clipping and the optimizer step are in
`t2.training.module`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import TokenLogProbs, token_log_probs
from t2.policy.packing import micro_batches
from t2.policy.prompt_sharing import exceeds_window
from t2.training.objectives import Objective
from t2.training.rollout import Loss, Rollout

log = logging.getLogger(__name__)
LOGGED_KL_SHARE = 1 / 8  # of the completions that a KL is estimated on where it is only logged


def accumulate_gradient(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    rollout: Rollout,
    *,
    with_kl: bool,
    share_prompts: bool,
    micro_batch_tokens: int,
    backward: Callable[[Tensor], None],
    seed: int = 0,
) -> dict[str, float]:
    """Call `backward` with the loss of each micro-batch, and return metrics of the update.

    Completions without an advantage add nothing to the policy gradient and are left out, unless the objective uses the
    KL to the base. A rollout without any advantage calls `backward` only then. With `with_kl` the KL is also returned
    where the objective does not use it, estimated on completions that `seed` draws.
    """
    in_loss = objective.kl_coefficient > 0
    # Zero gradients would still move z by AdamW's momentum, so a step without a signal has none at all.
    learns = in_loss or bool((rollout.advantages != 0).any())
    used = [n for n in range(rollout.total_samples) if in_loss or rollout.advantages[n] != 0]
    completions = [rollout.completions[n] for n in used]
    shared = share_prompts and not exceeds_window(lm, rollout.completions)
    if shared != share_prompts:
        log.warning("Prompts are not shared in this step: completions reach beyond the model's sliding window.")
    sums = _Sums()
    parts = micro_batches(completions, micro_batch_tokens, shared=shared)
    for rows in tqdm(parts, desc="update", unit="micro-batch", leave=False, disable=None):
        part = rollout.select([used[row] for row in rows])
        token = token_log_probs(
            lm,
            part.completions,
            temperature=rollout.temperature,
            kl=objective.kl_direction if in_loss else None,
            adapter=adapter,
            shared=shared,
        )
        loss = objective.loss(token, part)
        if learns:
            backward(loss.total)
        sums.add(loss, token)
    found = sums.metrics(on_policy=objective.on_policy, with_kl=in_loss)
    return (
        found | {"train/kl": estimated_kl(lm, adapter, objective, rollout, seed)} if with_kl and not in_loss else found
    )


@torch.no_grad()
def estimated_kl(lm: LanguageModel, adapter: Adapter, objective: Objective, rollout: Rollout, seed: int) -> float:
    """The KL of the objective, estimated without bias on LOGGED_KL_SHARE of the completions, drawn uniformly."""
    total = rollout.total_samples
    count = max(1, round(LOGGED_KL_SHARE * total))
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist()
    part = rollout.select(drawn)
    token = token_log_probs(
        lm, part.completions, temperature=rollout.temperature, kl=objective.kl_direction, adapter=adapter
    )
    return objective.loss(token, part).parts["kl"] * total / count


@dataclass
class _Sums:
    """Sums over the micro-batches of an update."""

    policy: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    drift: float = 0.0  # the largest one

    def add(self, loss: Loss, token: TokenLogProbs) -> None:
        """Add one micro-batch."""
        self.policy += loss.parts["policy"]
        self.kl += loss.parts.get("kl", 0.0)
        self.entropy += float(token.entropy.sum())
        self.tokens += int(token.mask.sum())
        drift = (token.log_probs.detach() - token.sampled).abs()
        self.drift = max(self.drift, float(drift.max()))  # both are 0 where padded

    def metrics(self, *, on_policy: bool, with_kl: bool) -> dict[str, float]:
        """What the loggers get."""
        found = {"train/policy_loss": self.policy}
        if self.tokens:
            found["train/entropy"] = self.entropy / self.tokens
            if on_policy:
                found["train/log_prob_drift"] = self.drift  # largest |training - sampling| of a log-prob
        if with_kl:
            found["train/kl"] = self.kl
        return found
