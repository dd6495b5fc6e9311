"""What a Llama with SVF needs: memory by part, and FLOPs and seconds by phase, computed from shapes.

    python bench/cost_model.py [--shapes 135m,1b,8b,70b] [--modules all] [--rank 16] [--gpu h100]

W = U diag(s) Vh with R = min(n_out, n_in): the factors U s and Vh of a matrix hold (n_out + n_in) R numbers, or
(n_out + n_in) k where k of its singular values are learned (`adapter.rank`). Memory
follows from what t2 allocates (`t2.adapters.svf_linear`, `t2.policy.log_probs`); seconds are FLOPs and bytes over what
a GPU does at best, times a share that is assumed. `bench/gpu.py` measures and sets its numbers beside these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from measure import count, names_of, parser, table

CHUNK_TOKENS = 512  # of t2.policy.log_probs: logits exist for so many tokens at once
COLUMNS = 8  # of t2.adapters.svf_linear: thin factors have a multiple of these
LOGIT_COPIES = 5  # logits, log-softmax, its exp, and their gradients, fp32 each


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def kv_size(self) -> int:
        """Numbers of the keys of a token in one block."""
        return self.kv_heads * self.hidden // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The linears of a block: name -> (n_out, n_in)."""
        d, i, kv = self.hidden, self.intermediate, self.kv_size
        attention = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, d)}
        return attention | {"gate_proj": (i, d), "up_proj": (i, d), "down_proj": (d, i)}

    @property
    def head(self) -> int:
        """Numbers of the head, tied or not."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        dense = sum(a * b for a, b in self.matrices().values()) * self.blocks
        return dense + self.head * (1 if self.tied else 2) + (2 * self.blocks + 1) * self.hidden


SHAPES = {
    "tiny": Shape(64, 96, 2, 4, 2, 261, False),
    "135m": Shape(576, 1536, 30, 9, 3, 49_152, True),
    "1b": Shape(2048, 8192, 16, 32, 8, 128_256, True),
    "3b": Shape(3072, 8192, 28, 24, 8, 128_256, True),
    "8b": Shape(4096, 14_336, 32, 32, 8, 128_256, False),
    "70b": Shape(8192, 28_672, 80, 64, 8, 128_256, False),
}
MODULES = {
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "qv": ("q_proj", "v_proj"),
}


@dataclass(frozen=True)
class Work:
    """One step of training, and how it is computed."""

    prompts: int = 8
    samples: int = 6
    prompt_tokens: int = 100
    new_tokens: int = 200
    micro_batch_tokens: int = 1024
    modules: str = "all"
    rank: int | None = None  # singular values that are learned of each matrix; None: all
    number_bytes: int = 2  # 2: bf16 and fp16, 4: fp32
    recompute: bool = False
    shared: bool = True

    @property
    def rows(self) -> int:
        """Completions."""
        return self.prompts * self.samples

    @property
    def update_tokens(self) -> int:
        """Tokens that an update computes; with shared prompts each prompt once."""
        return (self.prompts if self.shared else self.rows) * self.prompt_tokens + self.rows * self.new_tokens

    def learned(self, matrix: tuple[int, int]) -> int:
        """How many singular values of a matrix have a number."""
        return min(matrix) if self.rank is None else min(*matrix, self.rank)

    def columns(self, matrix: tuple[int, int]) -> int:
        """How many columns its factors have, zeros included that fill up thin ones."""
        k = self.learned(matrix)
        return k if k == min(matrix) else k + -k % COLUMNS


@dataclass(frozen=True)
class GPU:
    """What a processor does at best, and the shares of it that are assumed."""

    name: str
    half_flops: float  # FLOP/s of dense products in bf16
    fp32_flops: float
    bandwidth: float  # bytes/s
    memory_bytes: float
    half_share: float = 0.4
    fp32_share: float = 0.5
    bandwidth_share: float = 0.6


GPUS = {
    "h100": GPU("H100 SXM", 989e12, 67e12, 3.35e12, 80e9),
    "h200": GPU("H200", 989e12, 67e12, 4.8e12, 141e9),
    "a100": GPU("A100 80 GB", 312e12, 19.5e12, 2.04e12, 80e9),
}


def adapted(shape: Shape, work: Work) -> tuple[int, int, int]:
    """Numbers in the adapted matrices, in their factors, and in all that is learned."""
    chosen = [shape.matrices()[name] for name in MODULES[work.modules]]
    dense = sum(a * b for a, b in chosen)
    factors = sum((a + b) * work.columns((a, b)) for a, b in chosen)
    return dense * shape.blocks, factors * shape.blocks, sum(map(work.learned, chosen)) * shape.blocks


def memory(shape: Shape, work: Work) -> dict[str, float]:
    """Bytes by part.

    `weights` and `factors` are there always (in half precision W and U s are one buffer), `merged`, `cache` during
    rollouts, and `activations` and `logits` during an update.
    """
    dense, factors, z = adapted(shape, work)
    size = work.number_bytes
    a_token = activation_bytes(shape, work)
    held = size * shape.hidden * shape.blocks + a_token if work.recompute else a_token * shape.blocks
    return {
        "weights": size * shape.parameters,
        "factors": size * factors,
        "z and AdamW": 16 * z,  # z, its gradient, two moments, fp32
        "merged": size * dense,
        "cache": 2 * shape.blocks * shape.kv_size * size * work.rows * (work.prompt_tokens + work.new_tokens),
        "activations": held * work.micro_batch_tokens,
        "logits": 4 * LOGIT_COPIES * CHUNK_TOKENS * shape.vocabulary,
    }


def activation_bytes(shape: Shape, work: Work) -> int:
    """Bytes that one block keeps for the backward pass, per token.

    The two norms keep their input in fp32; each adapted matrix x Vhᵀ (R, or k); attention its inputs and output, and
    the log of its sum; the MLP both factors of its product and the input of SiLU. Under a tree mask (`shared`) keys
    and values are repeated for all heads.
    """
    d, kv = shape.hidden, shape.hidden if work.shared else shape.kv_size
    scaled = sum(work.columns(shape.matrices()[name]) for name in MODULES[work.modules])
    numbers = scaled + 2 * d + 2 * kv + 3 * shape.intermediate
    return 2 * 4 * (d + 1) + work.number_bytes * numbers + 4 * shape.heads


def flops(shape: Shape, work: Work) -> dict[str, float]:
    """Floating-point operations by phase of one step, a multiply-add being two.

    Attention takes 4 d per token and token before it (QKᵀ and its product with V), half of them on average.
    """
    dense, factors, _ = adapted(shape, work)
    chosen = [shape.matrices()[name] for name in MODULES[work.modules]]
    all_dense = shape.parameters - shape.head * (1 if shape.tied else 2)
    length = work.prompt_tokens + work.new_tokens
    keeps_w = work.number_bytes == 2 or work.rank is not None  # W and the factors are multiplied by
    forward = 2 * (all_dense + factors if keeps_w else all_dense - dense + factors)
    attention = 4 * shape.hidden * shape.blocks * length / 2
    passes = 3 if work.recompute else 2  # forward, and backward to the inputs alone: no weight has a gradient
    decoded = work.rows * work.new_tokens
    return {
        "merge": shape.blocks * sum(2 * a * b * work.columns((a, b)) for a, b in chosen),
        "prefill": work.prompts * work.prompt_tokens * (2 * all_dense + attention),
        "decode": decoded * (2 * all_dense + 2 * shape.head + attention),
        "update": passes * work.update_tokens * (forward + attention) + 2 * 2 * shape.head * decoded,
    }


def seconds(shape: Shape, work: Work, gpu: GPU) -> dict[str, float]:
    """Seconds by phase: products at their assumed shares, decoding by the bytes that each token's step reads."""
    operations, parts = flops(shape, work), memory(shape, work)
    fast = gpu.half_flops * gpu.half_share if work.number_bytes == 2 else gpu.fp32_flops * gpu.fp32_share
    read = work.new_tokens * (parts["weights"] + parts["cache"] / 2) / (gpu.bandwidth * gpu.bandwidth_share)
    return {
        "merge": operations["merge"] / (gpu.fp32_flops * gpu.fp32_share),
        "prefill": operations["prefill"] / fast,
        "decode": max(read, operations["decode"] / fast),
        "update": operations["update"] / fast,
    }


def memory_rows(shapes: Sequence[str], work: Work) -> list[Mapping[str, float | str]]:
    """GB by part, and the sums that are held at once."""
    rows: list[Mapping[str, float | str]] = []
    for name in shapes:
        parts = {part: count / 1e9 for part, count in memory(SHAPES[name], work).items()}
        again = memory(SHAPES[name], replace(work, recompute=True))["activations"] / 1e9
        both = parts["weights"] + parts["factors"] + parts["z and AdamW"]
        update, rollout = both + parts["activations"] + parts["logits"], both + parts["merged"] + parts["cache"]
        rows.append(
            {"GB": name}
            | parts
            | {"recomputed": again, "update": update, "rollout": rollout, "needed": max(update, rollout)}
        )
    return rows


def time_rows(shapes: Sequence[str], work: Work, gpu: GPU) -> list[Mapping[str, float | str]]:
    """Seconds of a step by phase, and tokens per second."""
    rows: list[Mapping[str, float | str]] = []
    for name in shapes:
        spent = seconds(SHAPES[name], work, gpu)
        total = sum(spent.values())
        rows.append({"seconds": name} | spent | {"step": total, "tokens/s": work.rows * work.new_tokens / total})
    return rows


def report(shapes: Sequence[str], work: Work, gpu: GPU) -> str:
    """Both tables."""
    return f"{table(memory_rows(shapes, work))}\n\n{table(time_rows(shapes, work, gpu))}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--shapes", type=names_of(SHAPES), default=["135m", "1b", "8b", "70b"], help="comma-separated")
    made.add_argument("--modules", choices=MODULES, default="all")
    made.add_argument("--rank", type=count, default=None, help="singular values that are learned of each matrix")
    made.add_argument("--gpu", choices=GPUS, default="h100")
    args = made.parse_args(argv)
    print(report(args.shapes, Work(modules=args.modules, rank=args.rank), GPUS[args.gpu]))


if __name__ == "__main__":
    main()
