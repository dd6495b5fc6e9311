"""The precision policy: in which type the model, the multipliers, the logits and the rollouts are held and computed.

    model         base_model.dtype: weights, factors and activations
    multipliers   fp32 whatever the model is, with fp32 gradients and optimizer states
    logits        fp32 from the head on, and with them log-probs, entropies, KL and loss
    rollouts      generation.dtype, to which merged weights are rounded; the model's own if that is null

Nothing else chooses a type. Lightning's precision plugins do not fit: under `bf16-mixed` autocast a layer feels nothing
of changes of z below 1.5e-3, `16-mixed` scales the gradients that are then clipped, and `bf16-true` casts what it is
given. fp16 keeps 11 bits of a number where bf16 keeps 8, so that rollouts and training differ less (arXiv 2510.26788).
"""

from __future__ import annotations

from dataclasses import dataclass

from t2.models.loading import parse_dtype

HALF = ("bfloat16", "float16")
TRAINER_PRECISIONS = (None, 32, "32", "32-true")  # those that do nothing
KL_FLOOR_NATS = 2e-3  # a token, of the KL of a bf16 model to itself by two ways of computing it


@dataclass(frozen=True)
class PrecisionPolicy:
    """The types of a run; `rollouts` is that of the weights which generate."""

    model: str = "float32"
    rollouts: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown type."""
        parse_dtype(self.model)
        if self.rollouts not in (None, "auto"):  # vLLM's word for the model's own
            parse_dtype(self.rollouts)

    @property
    def is_half(self) -> bool:
        """Whether the model is held in half precision."""
        return self.model in HALF

    def __str__(self) -> str:
        """What is printed when a run starts."""
        rollouts = self.model if self.rollouts in (None, "auto") else self.rollouts
        return f"model {self.model}, multipliers float32, logits float32, rollouts {rollouts}"


def check_trainer_precision(precision: object) -> None:
    """Raise ValueError where the trainer would cast what this policy holds."""
    if precision not in TRAINER_PRECISIONS:
        raise ValueError(
            f"trainer.precision is {precision!r}; allowed: null. Lightning's casts lose small changes of z or scale "
            "their gradients: choose the model's type with base_model.dtype=bfloat16 or float16; z stays in float32."
        )


def kl_floor_note(policy: PrecisionPolicy, kl_coefficient: float) -> str | None:
    """A warning where the objective weighs a KL that half precision cannot resolve, else None."""
    if not policy.is_half or not kl_coefficient > 0:
        return None
    return (
        f"objective.kl_coefficient is {kl_coefficient} and the model is held in {policy.model}: rounding alone gives a "
        f"KL of about {KL_FLOOR_NATS} nats a token, which is no distance to the base. Trust it above that."
    )
