"""What an update adds up for the log over its micro-batches, and over the processes that have a part of it each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from t2.policy.log_probs import TokenLogProbs
from t2.training.rollout import Loss


@dataclass
class UpdateSums:
    """Sums over the micro-batches of an update."""

    policy: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    drift: float = 0.0  # the largest one
    ratio: float = 0.0  # p_training / p_sampling of a token
    ratio_max: float = 0.0
    clipped: float | None = None  # tokens whose ratio is beyond a bound; None: the objective has no bounds
    present: list[bool] = field(default_factory=list)  # of each trained parameter, whether it has a gradient

    @classmethod
    def total(cls, parts: Sequence[UpdateSums]) -> UpdateSums:
        """The sums of all ranks."""
        clipped = [part.clipped for part in parts if part.clipped is not None]
        return cls(
            policy=sum(part.policy for part in parts),
            kl=sum(part.kl for part in parts),
            entropy=sum(part.entropy for part in parts),
            tokens=sum(part.tokens for part in parts),
            drift=max(part.drift for part in parts),
            ratio=sum(part.ratio for part in parts),
            ratio_max=max(part.ratio_max for part in parts),
            clipped=sum(clipped) if clipped else None,
            present=[any(flags) for flags in zip(*(part.present for part in parts), strict=True)],
        )

    def add(self, loss: Loss, token: TokenLogProbs) -> None:
        """Add one micro-batch."""
        self.policy += loss.parts["policy"]
        self.kl += loss.parts.get("kl", 0.0)
        self.entropy += float(token.entropy.sum())
        self.tokens += int(token.mask.sum())
        if "clipped" in loss.parts:
            self.clipped = (self.clipped or 0.0) + loss.parts["clipped"]
        change = token.log_probs.detach() - token.sampled  # both are 0 where padded
        self.drift = max(self.drift, float(change.abs().max()))
        ratio = change.exp() * token.mask
        self.ratio += float(ratio.sum())
        self.ratio_max = max(self.ratio_max, float(ratio.max()))

    def metrics(self, *, on_policy: bool) -> dict[str, float]:
        """What the loggers get."""
        found = {"train/policy_loss": self.policy}
        if self.tokens:
            found["train/entropy"] = self.entropy / self.tokens
            if self.clipped is not None:
                found["train/clipped_share"] = self.clipped / self.tokens
            if on_policy:
                found["train/log_prob_drift"] = self.drift  # largest |training - sampling| of a log-prob
                found["train/importance_ratio"] = self.ratio / self.tokens  # mean p_training / p_sampling, uncapped
                found["train/importance_ratio_max"] = self.ratio_max
        return found
