"""A completion while it is being generated: its tokens so far, and what ends it.

Not done here: sampling tokens (`t2.policy.sampling`), batches of rows (`t2.policy.hf`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from t2.models.language_model import LanguageModel
from t2.models.precision import NonFiniteError
from t2.types import Completion, LazyImage, Sampling


@dataclass
class Row:
    """A completion that is being generated."""

    index: int  # b * G + g
    prompt: tuple[int, ...]
    images: tuple[LazyImage, ...]
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    stopped: bool = False

    def record(self, token: int, log_prob: float, lm: LanguageModel, sampling: Sampling) -> None:
        """Add a token and see whether it ends the completion; one that has ended takes no more.

        Raises:
            NonFiniteError: the log-prob is NaN or infinite.
        """
        if self.stopped:
            return
        if not math.isfinite(log_prob):
            raise NonFiniteError(
                "The log-prob at sampling",
                log_prob,
                prompt=self.index // sampling.samples,
                completion=self.index,
                token=len(self.tokens),
                dtype=lm.dtype,
            )
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        self.stopped = token in lm.end_ids or (
            bool(sampling.stop) and any(word in lm.decode(self.tokens) for word in sampling.stop)
        )

    def completion(self, lm: LanguageModel, sampling: Sampling) -> Completion:
        """The row as a completion, its text cut before the first of the stop words."""
        text = lm.decode(self.tokens)
        cuts = [text.index(word) for word in sampling.stop if word in text]
        return Completion(
            prompt_ids=self.prompt,
            token_ids=tuple(self.tokens),
            log_probs=tuple(self.log_probs),
            text=text[: min(cuts)] if cuts else text,
            finish="stop" if self.stopped else "length",
            images=self.images,
        )
