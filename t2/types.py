"""The data that travels between the stages of t2, and the letters that name its shapes.

Shape letters, used in every `# (N, T)` comment of the project:

    B  examples (prompts) in a batch          R  singular values of one matrix, min(m, n)
    G  completions sampled per example        M  adapted matrices          D  distinct mixtures
    N  completions in a batch, N = B * G      K  experts
    T  completion tokens, padded              V  vocabulary entries

All records are frozen: a stage hands on a new record and never edits an old one. Nothing here runs a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from t2.images import LazyImage

OTHER = "other"  # the label of a prompt that no expert is for: the base model answers it
FinishReason = Literal["stop", "length"]
MixingRule = Literal["delta", "paper"]
KLDirection = Literal["policy_base", "base_policy"]  # KL(policy || base), as in the paper, or the reverse


@dataclass(frozen=True)
class Example:
    """One question. `answer` is the reference (None where there is none), `system` a system message.

    `prefill` is put at the start of the model's own turn and belongs to the prompt, not to the completion. `images`
    stand before the prompt. `metadata["id"]` names the example in its data set, and `metadata["groups"]` (subject,
    level, ...) says which parts of a task are also reported by themselves.
    """

    prompt: str
    answer: str | None = None
    system: str | None = None
    prefill: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[LazyImage, ...] = ()


@dataclass(frozen=True)
class Grade:
    """What a grader says of an answer: a score in [0, 1], why it is not 1, and what it read out of the text.

    `reason` is a short word of a small set (`wrong`, `timeout`, ...), so that it can be counted; None where there is
    nothing to say. `extracted` is the program, the number, the expression that was judged; None if none was found.
    """

    score: float
    reason: str | None = None
    extracted: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How to answer: `temperature=0` is greedy, `samples` is G, `stop` are strings that end an answer."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for values that no sampler could follow."""
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0.0, "0 (greedy) or above"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "samples": (self.samples >= 1, "at least 1"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise ValueError(f"sampling.{name} is {getattr(self, name)}; allowed: {allowed}.")
        object.__setattr__(self, "stop", tuple(self.stop))  # a YAML list arrives as one

    @property
    def scoring_temperature(self) -> float:
        """The temperature under which log-probs are taken: that of the sampler, 1 for greedy decoding."""
        return self.temperature if self.temperature > 0.0 else 1.0


@dataclass(frozen=True)
class Completion:
    """One answer as it was sampled. Token ids are kept, so nothing is ever tokenized a second time.

    `token_ids` includes the stop token when there was one. `log_probs` are those of the sampling
    policy at `Sampling.scoring_temperature` over the full vocabulary, one per token.
    `text` leaves out special tokens and whatever follows a stop string. `images` are those of the prompt, whose places
    `prompt_ids` holds.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    finish: FinishReason
    images: tuple[LazyImage, ...] = ()

    def __post_init__(self) -> None:
        """Check the invariants every consumer relies on."""
        assert len(self.token_ids) == len(self.log_probs), (
            f"{len(self.token_ids)} tokens with {len(self.log_probs)} log-probs"
        )
        assert self.token_ids, "a completion has at least one token"


@dataclass(frozen=True)
class Mixture:
    """How much of each of K experts an example wears: a row of alphas per expert, for all matrices or one per matrix.

    delta    z' = 1 + sum_k alpha_k (z_k - 1)     a coordinate from the base; no alpha is a share, any may exceed 1
    paper    z' = sum_k alpha_k z_k               paper §3.2; alphas that sum to 1 give what `delta` gives
    """

    alphas: tuple[tuple[float, ...], ...]  # (K, 1) or (K, M)
    rule: MixingRule = "delta"

    def __post_init__(self) -> None:
        """Raise ValueError for alphas that mean nothing."""
        rows = self.alphas
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError(f"A mixture has a row of alphas per expert, all of one length; got {rows!r}.")
        if not all(math.isfinite(alpha) for row in rows for alpha in row):
            raise ValueError(f"A mixture's alphas are finite numbers; got {rows!r}.")
        if self.rule not in ("delta", "paper"):
            raise ValueError(f"The mixing rule is {self.rule!r}; allowed: delta, paper.")

    @classmethod
    def of(cls, *alphas: float, rule: MixingRule = "delta") -> Mixture:
        """One alpha per expert."""
        return cls(tuple((float(alpha),) for alpha in alphas), rule)

    @classmethod
    def base(cls, experts: int) -> Mixture:
        """No expert at all: the base model."""
        return cls.of(*(0.0,) * experts)

    @property
    def means(self) -> tuple[float, ...]:
        """Each expert's alpha, averaged over matrices (K,)."""
        return tuple(sum(row) / len(row) for row in self.alphas)

    def normalized(self) -> Mixture:
        """The same mixture with alphas that sum to 1 over the experts, for every matrix.

        Raises:
            ValueError: some sum is 0.
        """
        totals = [sum(column) for column in zip(*self.alphas, strict=True)]
        if any(abs(total) < 1e-12 for total in totals):
            raise ValueError(f"Alphas that sum to 0 cannot be normalized: {self.alphas!r}. Give one expert a share.")
        rows = (tuple(a / total for a, total in zip(row, totals, strict=True)) for row in self.alphas)
        return Mixture(tuple(rows), self.rule)


@dataclass(frozen=True)
class Rollout:
    """What one training step learns from: N completions of B examples, G each, ordered by example.

    `rewards` are the objective's rewards (after its map), `advantages` the weights of the policy
    gradient. `total_*` describe the whole rollout and stay the same in every `select`ed part, so that
    losses of micro-batches add up to the loss of the whole.
    """

    completions: tuple[Completion, ...]  # N
    rewards: Tensor  # (N,)
    advantages: Tensor  # (N,)
    temperature: float
    total_samples: int
    total_tokens: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Check that all parts speak of the same N completions."""
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
        )


@dataclass(frozen=True)
class TokenLogProbs:
    """What the training forward knows about each completion token; padding is where `mask` is False.

    `log_probs` carries the gradient. `entropy` is detached. `kl` is the divergence between policy and
    base at each position over the full vocabulary (None when it was not asked for).
    """

    log_probs: Tensor  # (N, T)
    mask: Tensor  # (N, T) bool
    entropy: Tensor  # (N, T)
    kl: Tensor | None  # (N, T)


@dataclass(frozen=True)
class Loss:
    """A loss to call `backward` on, and the named numbers it was made of (floats, for the log)."""

    total: Tensor  # ()
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """How one system did on one task: a score in [0, 1] per example, the mean of its samples, in their order."""

    task: str
    system: str
    examples: tuple[Example, ...]
    completions: tuple[Completion, ...]  # the first of each example
    scores: tuple[float, ...]
    majority: float | None  # accuracy of always giving the most frequent reference answer
    seconds: Mapping[str, float]
    samples: tuple[tuple[Completion, ...], ...] = ()  # B x G
    grades: tuple[tuple[Grade, ...], ...] = ()  # B x G

    @property
    def mean(self) -> float:
        """Mean score."""
        return sum(self.scores) / len(self.scores)

    @property
    def stderr(self) -> float:
        """Standard error of the mean, from the sample variance (nan for a single example)."""
        n = len(self.scores)
        if n < 2:
            return float("nan")
        mean = self.mean
        return math.sqrt(sum((score - mean) ** 2 for score in self.scores) / (n - 1) / n)


@dataclass(frozen=True)
class Paired:
    """Two systems on the same examples: mean difference, its 95 % interval, a two-sided p-value."""

    difference: float
    ci95: tuple[float, float]
    p_value: float
