"""One GPU, or several: what each of them holds, and the seconds of a step.

The bytes and operations of `t2.costs.step` are divided as `trainer=ddp`, `trainer=fsdp` and
`base_model.device=balanced` divide them. Seconds are operations and bytes over what a GPU does at best, times a share
that is assumed. A sharded model is put together block by block in each pass: in a prefill, for each decoded token,
and twice for each micro-batch. That overlaps with computing at best, so that the longer of the two counts. Not done
here: a whole run (`t2.costs.estimate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from t2.costs.gpus import GPU
from t2.costs.shapes import ModelShape
from t2.costs.step import Work, attended_bytes, factors, flops, memory, saved

Way = Literal["one", "ddp", "fsdp", "balanced"]
LINK_SHARE = 0.6  # of the link's bytes/s, assumed as for the memory's bandwidth
SLOW_LINK = 32e9  # bytes/s where a GPU has no link of its own: PCIe 4, 16 lanes
WHOLE_BLOCKS = 2  # that are in memory: the one that is computed, and the next


@dataclass(frozen=True)
class Placement:
    """A way to train a model on some GPUs."""

    way: Way = "one"
    machines: int = 1
    gpus: int = 1  # of each machine

    @property
    def ranks(self) -> int:
        """Processes."""
        return self.machines * self.gpus if self.way in ("ddp", "fsdp") else 1


ONE = Placement()


def frozen(shape: ModelShape, work: Work) -> tuple[float, float]:
    """Bytes of the frozen numbers outside the blocks, and of all blocks with their factors."""
    inside = shape.parameters - shape.outside + factors(shape, work)
    less_outside, less_inside = saved(shape, work)
    return work.number_bytes * shape.outside - less_outside, work.number_bytes * inside - less_inside


def part_of(work: Work, placement: Placement) -> Work:
    """What the rank with most prompts does of a step."""
    return replace(work, prompts=math.ceil(work.prompts / placement.ranks))


def held(shape: ModelShape, work: Work, placement: Placement = ONE) -> dict[str, float]:
    """Bytes of one GPU by part, of the fullest."""
    parts = memory(shape, part_of(work, placement))
    outside, blocks = frozen(shape, work)
    share = placement.gpus if placement.way in ("fsdp", "balanced") else 1
    spread = placement.gpus if placement.way == "balanced" else 1  # blocks keep their own activations and cache
    thin = parts["factors"] / share
    return {
        "weights": outside + blocks / share - thin,
        "factors": thin,
        "dequantized": parts["dequantized"],
        "blocks": WHOLE_BLOCKS * blocks / shape.blocks if placement.way == "fsdp" else 0.0,
        "z and AdamW": parts["z and AdamW"],
        "activations": parts["activations"] / spread,
        "logits": parts["logits"],
        "merged": parts["merged"] / spread,
        "cache": parts["cache"] / spread,
    }


def always(parts: dict[str, float]) -> float:
    """Bytes that are held in every phase."""
    return sum(parts[name] for name in ("weights", "factors", "dequantized", "blocks", "z and AdamW"))


def needed(parts: dict[str, float]) -> dict[str, float]:
    """Bytes that one GPU needs in the update and during rollouts."""
    return {
        "update": always(parts) + parts["activations"] + parts["logits"],
        "rollout": always(parts) + parts["merged"] + parts["cache"],
    }


def seconds(shape: ModelShape, work: Work, gpu: GPU, placement: Placement = ONE) -> dict[str, float]:
    """Seconds of a step by phase: products at their assumed shares, decoding by the bytes that each token's step reads.

    With sharded blocks their exchange, where it is the longer.
    """
    _, blocks = frozen(shape, work)
    own = part_of(work, placement)
    operations = flops(shape, own)
    exact, half = gpu.fp32_flops * gpu.fp32_share, gpu.half_flops * gpu.half_share
    fast = half if work.number_bytes == 2 else exact
    gather = 0.0
    if placement.way == "fsdp":
        gather = blocks * (placement.gpus - 1) / placement.gpus / ((gpu.link or SLOW_LINK) * LINK_SHARE)
    weights = work.number_bytes * (shape.parameters + (0 if work.merged_bytes is not None else factors(shape, work)))
    if work.quantization != "none":  # packed numbers are read, dense ones written and read, in half precision twice
        weights += (3 if work.number_bytes == 2 else 1) * work.number_bytes * shape.packable[0]
    read = weights + attended_bytes(shape, own, own.rows / own.batches) / 2
    passes = 2 * math.ceil(own.update_tokens / own.micro_batch_tokens)  # a block is computed again while it is whole
    read_seconds = max(read / (gpu.bandwidth * gpu.bandwidth_share), gather)
    return {
        "merge": operations["merge"] / exact,
        "prefill": max(operations["prefill"] / fast, gather),
        "decode": max(own.new_tokens * own.batches * read_seconds, operations["decode"] / fast),
        "update": max(operations["update"] / fast, passes * gather),
    }
