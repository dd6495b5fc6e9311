"""The data that travels between the stages of t2, and the letters that name its shapes.

Shape letters, used in every `# (N, T)` comment of the project:

    B  examples (prompts) in a batch          R  singular values of one matrix, min(m, n)
    G  completions sampled per example        M  adapted matrices          D  distinct mixtures
    N  completions in a batch, N = B * G      K  experts
    T  completion tokens, padded              V  vocabulary entries

All records are frozen: a stage hands on a new record and never edits an old one. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from pydantic import Field, NonNegativeFloat, PositiveInt

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy takes, and so what seeds everything
OTHER = "other"  # the label of a prompt that no expert is for: the base model answers it
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Example:
    """One question. `answer` is the reference (None where there is none), `system` a system message.

    `response_prefix` begins the model's own turn and belongs to the prompt, not to the completion. `shots` are solved
    questions before this one, pairs of a user's and the model's turn. `images` stand before the prompt.
    `metadata["id"]` names the example in its data set, and `metadata["groups"]` (subject, level, ...) says which parts
    of a task are also reported by themselves. `metadata["answers"]` are all references of a question with several, each
    of which is right in part.
    """

    prompt: str
    answer: str | None = None
    system: str | None = None
    response_prefix: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[LazyImage, ...] = ()
    shots: tuple[tuple[str, str], ...] = ()

    @property
    def reference_completion(self) -> str | None:
        """The reference answer as it follows `response_prefix`, which may hold its beginning ("[" of a list) already.

        A space parts the two where neither brings one. None where there is no answer.
        """
        prefix, answer = self.response_prefix, self.answer
        if not answer or not prefix:
            return answer
        if len(answer) > len(prefix) and answer.startswith(prefix):
            return answer.removeprefix(prefix)
        return answer if prefix[-1].isspace() or answer[0].isspace() else f" {answer}"


@dataclass(frozen=True)
class Grade:
    """What a grader says of an answer: a score in [0, 1], why it is not 1, and what it read out of the text.

    `reason` is a short word of a small set (`wrong`, `timeout`, ...), so that it can be counted; None where there is
    nothing to say. `extracted` is the program, the number, the expression that was judged; None if none was found.
    """

    score: float
    reason: str | None = None
    extracted: str | None = None


LOWEST_TEMPERATURE = 1e-5  # logits divided by far less are infinite


@dataclass(frozen=True)
class Sampling:
    """How to answer: `temperature=0` is greedy, `samples` is G, `stop` are strings that end an answer."""

    max_new_tokens: PositiveInt = 64
    temperature: NonNegativeFloat = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    samples: PositiveInt = 1
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Raise ValueError for values that no sampler could follow."""
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (
                self.temperature == 0.0 or self.temperature >= LOWEST_TEMPERATURE,
                f"0 (greedy), or {LOWEST_TEMPERATURE} and above",
            ),
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
    `text` leaves out special tokens and whatever follows a stop string. `images` are those of the prompt, whose
    placeholders are in `prompt_ids`.
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


@runtime_checkable
class LazyImage(Protocol):
    """An image that is decoded when it is loaded; hashable, so that prompts can be compared."""

    def load(self) -> Image.Image:
        """The image in RGB.

        Raises:
            ValueError: it cannot be decoded; the message says which one.
            FileNotFoundError: it is in a file that is not there.
        """
        ...


@dataclass(frozen=True)
class PixelImage:
    """An image held in memory: `pixels` are the bytes of (height, width) gray values, or of (height, width, 3)."""

    pixels: bytes = field(repr=False)
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray[Any, np.dtype[np.uint8]]) -> PixelImage:
        """An image of gray values (height, width) or RGB (height, width, 3) from 0 to 255."""
        shaped = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
        if values.dtype != np.uint8 or not shaped or not values.size:
            raise ValueError(
                f"Pixels are {values.dtype} of shape {values.shape}; "
                "allowed: uint8 (height, width) or (height, width, 3), with at least one pixel."
            )
        return cls(values.tobytes(), values.shape)

    def load(self) -> Image.Image:
        """The image in RGB."""
        return Image.fromarray(np.frombuffer(self.pixels, np.uint8).reshape(self.shape)).convert("RGB")
