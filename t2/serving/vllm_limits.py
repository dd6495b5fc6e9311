"""What the LoRAs of a vLLM server may be. Not done here: making them (`t2.serving.vllm_loras`)."""

from __future__ import annotations

from dataclasses import dataclass

from t2.run.messages import check_range

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


class Refused(ValueError):
    """A mixture that a LoRA of this rank does not stand for."""


@dataclass(frozen=True)
class Limits:
    """What LoRAs may be.

    Args:
        rank: the largest; one of RANKS.
        max_error: what of a mixture's change, in the Frobenius norm, a LoRA may leave out, 0 to 1.
        mixtures: how many the server has beside the experts.

    Raises:
        ValueError: a number that is none of these.
    """

    rank: int
    max_error: float
    mixtures: int

    def __post_init__(self) -> None:
        """Check them."""
        if self.rank not in RANKS:
            raise ValueError(f"backend.rank is {self.rank}; allowed: {', '.join(map(str, RANKS))}, as vLLM takes.")
        check_range("backend.max_error", self.max_error, at_least=0, at_most=1)
        check_range("backend.mixtures", self.mixtures, at_least=1)
