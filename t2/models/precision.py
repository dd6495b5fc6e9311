"""The precision policy: in which dtype the model, z, the logits and the rollouts are, and what is refused.

    part                            dtype                 why
    frozen weights, activations     base_model.dtype      half precision halves memory and the time of products
    z, its gradient, its optimizer  float32               a step of 1e-3 at z = 1 is lost in bfloat16 (2^-8 = 4e-3)
    logits, log-probs, KL           float32               a bfloat16 logit of 20 is rounded by up to 0.06
    rollouts                        generation.mode       merged: W' rounded to a dtype; factored: as in training
                                    generation.dtype      auto: bfloat16 where x86 multiplies it, no GPU

float16 has 10 bits of mantissa and bfloat16 7, so that sampling and training differ by less in it (Qi et al. 2025,
arXiv 2510.26788); its largest number is 65504, beyond which a `NonFiniteError` names the place. Losses are scaled for
it in `t2.training.policy_gradient`. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from t2.run.messages import check_choice, nearest

DTYPES = ("float32", "bfloat16", "float16")
LOGITS = torch.float32  # the dtype of logits and of all that is computed from them
RolloutMode = Literal["auto", "merged", "factored"]
_REFUSED = {  # precision flags of Lightning, and what they do here
    "bf16-mixed": "autocast rounds z to bfloat16 in every product, and a layer feels nothing of |z - 1| below 1.5e-3",
    "16-mixed": "gradients are scaled for float16 and clipped as they are, at a clip_norm meant for unscaled ones",
    "bf16-true": "Lightning converts the batch, and fails on examples, which are frozen dataclasses",
    "16-true": "Lightning converts the batch, and fails on examples, which are frozen dataclasses",
}


class NonFiniteError(FloatingPointError, ValueError):
    """A log-prob or divergence that is NaN or infinite, where going on would train on it or answer with it.

    `prompt`, `completion` and `token` count from 0: among the prompts and completions that were computed together, and
    within the completion.
    """

    def __init__(
        self, what: str, value: float, *, prompt: int, completion: int, token: int, dtype: torch.dtype
    ) -> None:
        """Make the message; `what` names the number, `dtype` is that of the model."""
        cure = "" if dtype != torch.float16 else ", or set base_model.dtype=bfloat16, which has more range"
        super().__init__(
            f"{what} of token {token} in completion {completion} (prompt {prompt}) is {value}, so the logits there are "
            f"not finite: z has grown too large, or a number has overflowed in {dtype_name(dtype)}. Lower "
            f"optimizer.lr, or the bounds of a search{cure}. What was saved before is finite."
        )
        self.what, self.value, self.dtype = what, value, dtype
        self.prompt, self.completion, self.token = prompt, completion, token

    def at(self, *, prompt: int, completion: int) -> NonFiniteError:
        """The same error with the numbers that prompt and completion have in a larger batch."""
        return NonFiniteError(
            self.what, self.value, prompt=prompt, completion=completion, token=self.token, dtype=self.dtype
        )


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The dtypes of a run, settled before a model is loaded.

    Attributes:
        model: dtype of the frozen weights and the activations.
        rollout_mode: `merged` or `factored`. `auto` is factored in bfloat16, where merging rounds away a part of what
            z has learned (SmolLM2-135M: half of the change of the weights at a standard deviation of z of 0.001, a
            fifth at 0.002, 0.1 % at 0.008), and merged, which is faster, elsewhere: float16 loses 0.1 % at 0.001. A
            `rollout_dtype` asks for merged weights, too.
        rollout_dtype: dtype of merged weights; None is the model's own. `auto` becomes one or the other, on
            each machine for itself: bfloat16 for merged weights of a model in float32 where `multiplies_bfloat16`.
        quantization: of the base (`t2.models.quantization`). In a quantized one nothing can be merged, so that `auto`
            is factored.
    """

    model: str = "float32"
    rollout_mode: RolloutMode = "auto"
    rollout_dtype: str | None = None
    quantization: str = "none"

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown dtype or mode, or merged weights where none can be."""
        parse_dtype(self.model)
        if self.rollout_dtype == "auto":
            rounds = self.model == "float32" and self.rollout_mode != "factored" and self.quantization == "none"
            object.__setattr__(self, "rollout_dtype", "bfloat16" if rounds and multiplies_bfloat16() else None)
        check_choice("generation.mode", self.rollout_mode, get_args(RolloutMode))
        if self.quantization != "none" and (self.rollout_mode == "merged" or self.rollout_dtype is not None):
            raise ValueError(
                f"The base is quantized (base_model.quantization={self.quantization}), and weights are merged "
                "(generation.mode=merged, generation.dtype or generation=vllm), which would have to be dense. Use "
                "generation=hf with generation.mode=factored and no generation.dtype, or base_model.quantization=none."
            )
        if self.rollout_dtype is not None:
            parse_dtype(self.rollout_dtype)
            if self.rollout_mode == "factored":
                raise ValueError(
                    f"generation.dtype={self.rollout_dtype} rounds merged weights, and generation.mode=factored merges "
                    "none; leave one of them out."
                )

    @classmethod
    def of(
        cls,
        base_model: Mapping[str, Any],
        generation: Mapping[str, Any],
        trainer: Mapping[str, Any] | None = None,
    ) -> Precision:
        """The policy of a run's settings.

        Raises:
            ValueError: an unknown dtype, settings that exclude each other, or a precision flag of the trainer.
        """
        flag = (trainer or {}).get("precision")
        if flag not in (None, 32, "32", "32-true"):
            why = _REFUSED.get(str(flag), "it changes dtypes behind t2's back")
            raise ValueError(
                f"trainer.precision is {flag!r}; allowed: 32-true, the default. With {flag}, {why}. For half precision "
                "set base_model.dtype=bfloat16 or float16: z and logits stay in float32."
            )
        engine = generation.get("engine") or {}  # vLLM's, which takes merged weights
        dtype = engine.get("dtype") if engine.get("dtype") != "auto" else None
        return cls(
            model=base_model.get("dtype", "float32"),
            rollout_mode="merged" if engine else generation.get("mode", "auto"),
            rollout_dtype=dtype if engine else generation.get("dtype"),
            quantization=base_model.get("quantization", "none"),
        )

    @property
    def merges(self) -> bool:
        """Whether rollouts are generated with merged weights."""
        if self.rollout_mode != "auto":
            return self.rollout_mode == "merged"
        if self.quantization != "none":
            return False
        return self.rollout_dtype is not None or parse_dtype(self.model) != torch.bfloat16

    def __str__(self) -> str:
        """One line for the log."""
        mode = "merged" if self.merges else "factored"
        packed = "" if self.quantization == "none" else f", weights {self.quantization}"
        return (
            f"model {self.model}{packed}; z and logits float32; rollouts {mode} in {self.rollout_dtype or self.model}"
        )


def multiplies_bfloat16() -> bool:
    """Whether this machine has no GPU, and an x86 processor with AMX or AVX-512 bf16."""
    can = torch.cpu.get_capabilities()
    return not torch.cuda.is_available() and any(can.get(name) for name in ("amx_bf16", "avx512_bf16"))


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers of this dtype have 16 bits."""
    return dtype in (torch.bfloat16, torch.float16)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, as `parse_dtype` takes it."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in DTYPES.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DTYPES:
        near = nearest(name, DTYPES, cutoff=0.3)  # low, for fp16 and its like
        hint = "" if near is None else f" Did you mean {near!r}?"
        raise ValueError(f"dtype is {name!r}; allowed: {', '.join(DTYPES)}.{hint}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
