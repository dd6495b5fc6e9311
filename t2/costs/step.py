"""What one step needs: bytes by part and floating-point operations by phase, computed from a model's sizes.

W = U diag(s) Vh with R = min(n_out, n_in): the factors U s and Vh of a matrix hold (n_out + n_in) R numbers, or
(n_out + n_in) k where k of its singular values are learned (`adapter.rank`). Bytes follow from what t2 allocates
(`t2.adapters.svf_linear`, `t2.policy.log_probs`). Not done here: seconds, and several GPUs (`t2.costs.placement`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from t2.adapters.svf_linear import COLUMNS
from t2.costs.shapes import ModelShape, Size
from t2.policy.log_probs import CHUNK_TOKENS

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64  # of a number: 4 bits, and its part of the scales on both levels
LOGIT_COPIES = 5  # logits, log-softmax, its exp, and their gradients, fp32 each


@dataclass(frozen=True)
class Work:
    """One step of training, and how it is computed."""

    prompts: int = 8
    samples: int = 6
    prompt_tokens: int = 100
    new_tokens: int = 200
    micro_batch_tokens: int = 1024
    batch_rows: int = 64  # completions that are sampled at once
    rank: int | None = None  # singular values that are learned of each matrix; None: all
    share: float | None = None  # or this share of them
    number_bytes: int = 2  # 2: bf16 and fp16, 4: fp32
    merged_bytes: int | None = 2  # of a number of the weights that rollouts are merged into; None: factored
    recompute: bool = False
    shared: bool = True
    quantization: str = "none"  # of the base (`t2.models.quantization`)

    @property
    def rows(self) -> int:
        """Completions."""
        return self.prompts * self.samples

    @property
    def batches(self) -> int:
        """How often completions are sampled, `batch_rows` at once."""
        return math.ceil(self.rows / self.batch_rows)

    @property
    def update_tokens(self) -> int:
        """Tokens that an update computes; with shared prompts each prompt once."""
        return (self.prompts if self.shared else self.rows) * self.prompt_tokens + self.rows * self.new_tokens

    @property
    def is_partial(self) -> bool:
        """Whether some singular values have no number."""
        return (self.rank, self.share) != (None, None)

    def learned(self, matrix: Size) -> int:
        """How many singular values of a matrix have a number."""
        if self.rank is not None:
            return min(*matrix, self.rank)
        return min(matrix) if self.share is None else max(1, math.ceil(self.share * min(matrix)))

    def columns(self, matrix: Size) -> int:
        """How many columns its factors have, zeros included that fill up thin ones."""
        k = self.learned(matrix)
        return k if k == min(matrix) else k + -k % COLUMNS


def saved(shape: ModelShape, work: Work) -> tuple[float, float]:
    """Bytes that quantization saves of the frozen numbers: outside the blocks, and in all of them."""
    if work.quantization == "none":
        return 0.0, 0.0
    numbers, rows = shape.packable
    if work.quantization == "nf4":
        return 0.0, numbers * (work.number_bytes - NF4_BYTES)
    outside, table_rows = shape.packable_tables
    size = work.number_bytes
    return (size - 1.0) * outside - size * table_rows, (size - 1.0) * numbers - size * rows


def dequantized_bytes(shape: ModelShape, work: Work) -> float:
    """Bytes of the largest matrix while it is dequantized; in half precision it is copied into the joint one."""
    if work.quantization == "none":
        return 0.0
    return max(a * b for a, b in shape.adapted) * work.number_bytes * (2 if work.number_bytes == 2 else 1)


def factors(shape: ModelShape, work: Work) -> int:
    """Numbers in the factors of the adapted matrices."""
    return sum((a + b) * work.columns((a, b)) for a, b in shape.adapted)


def memory(shape: ModelShape, work: Work) -> dict[str, float]:
    """Bytes by part.

    `weights`, `factors` and `z and AdamW` are there always (in half precision W and U s are one buffer), and so is room
    for a matrix that is `dequantized`; `merged` and `cache` during rollouts, `activations` and `logits` during an
    update.
    """
    size = work.number_bytes
    a_token = activation_bytes(shape, work)
    held = size * shape.hidden * shape.blocks + a_token if work.recompute else a_token * shape.blocks
    adapted = sum(a * b for a, b in shape.adapted)
    return {
        "weights": size * shape.parameters - sum(saved(shape, work)),
        "dequantized": dequantized_bytes(shape, work),
        "factors": size * factors(shape, work),
        "z and AdamW": 16 * sum(map(work.learned, shape.adapted)),  # z, its gradient, two moments, fp32
        "merged": (work.merged_bytes or 0) * adapted,
        "cache": cache_bytes(shape, work, min(work.rows, work.batch_rows)),
        "activations": held * work.micro_batch_tokens,
        "logits": 4 * LOGIT_COPIES * CHUNK_TOKENS * shape.vocabulary,
    }


def cache_bytes(shape: ModelShape, work: Work, rows: int) -> float:
    """Bytes of the keys and values that so many completions hold, each prompt once for its samples.

    One block's at a time are put together for its forward pass, prompt and completion (`t2.policy.prompt_cache`).
    """
    held = math.ceil(rows / work.samples) * work.prompt_tokens + rows * work.new_tokens
    together = rows * (work.prompt_tokens + work.new_tokens)
    return 2 * shape.kv * work.number_bytes * (shape.blocks * held + together)


def attended_bytes(shape: ModelShape, work: Work, rows: float) -> float:
    """Bytes of the keys and values that the last token of so many completions attends to."""
    return 2 * shape.blocks * shape.kv * work.number_bytes * rows * (work.prompt_tokens + work.new_tokens)


def activation_bytes(shape: ModelShape, work: Work) -> float:
    """Bytes that one block keeps for the backward pass, per token.

    The two norms keep their input in fp32; each adapted matrix x Vhᵀ (R, or k); attention its inputs and output, and
    the log of its sum; the MLP both factors of its product and the input of SiLU. Under a tree mask (`shared`) keys
    and values are repeated for all heads.
    """
    kv = shape.attention if work.shared else shape.kv
    scaled = sum(map(work.columns, shape.adapted)) / shape.blocks
    numbers = scaled + 2 * shape.attention + 2 * kv + 3 * shape.intermediate
    return 2 * 4 * (shape.hidden + 1) + work.number_bytes * numbers + 4 * shape.heads


def flops(shape: ModelShape, work: Work) -> dict[str, float]:
    """Floating-point operations by phase of one step, a multiply-add being two.

    Attention takes 4 d per token and token before it (QKᵀ and its product with V), half of them on average.
    """
    inside = shape.parameters - shape.outside
    adapted, thin = sum(a * b for a, b in shape.adapted), factors(shape, work)
    keeps_w = (
        work.number_bytes == 2 or work.is_partial or work.quantization != "none"
    )  # W and the factors are multiplied by
    forward = 2 * (inside + thin if keeps_w else inside - adapted + thin)
    answering = 2 * inside if work.merged_bytes is not None else forward
    attention = 4 * shape.attention * shape.blocks * (work.prompt_tokens + work.new_tokens) / 2
    passes = 3 if work.recompute else 2  # forward, and backward to the inputs alone: no weight has a gradient
    decoded = work.rows * work.new_tokens
    merge = sum(2 * a * b * work.columns((a, b)) for a, b in shape.adapted)
    return {
        "merge": 0 if work.merged_bytes is None else merge,
        "prefill": work.prompts * work.prompt_tokens * (2 * inside + attention),
        "decode": decoded * (answering + 2 * shape.head + attention),
        "update": passes * work.update_tokens * (forward + attention) + 2 * 2 * shape.head * decoded,
    }
