"""What a step needs on one GPU, on eight, and on two machines of eight: memory of each GPU and seconds, computed.

    python bench/scale_plan.py [--prompts 16] [--rank 16] [--gpu h100]

The bytes and operations are those of `cost_model`, divided as `trainer=ddp`, `trainer=fsdp` and `base_model.device`
divide them. Rollouts are factored, as they are for a base in bf16. A sharded model is put together block by block in
each pass: in a prefill, for each decoded token, and twice for each micro-batch. That overlaps with computing at best,
so that the longer of the two counts. Nothing here is measured: see `cost_model` for the shares that are assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cost_model import GPU, GPUS, SHAPES, Shape, Work, adapted, flops, memory
from measure import count, parser, table

LINK = 450e9  # bytes/s into each GPU of a machine (NVLink 4, one direction)
LINK_SHARE = 0.6  # of it, assumed as for the memory's bandwidth
WHOLE_BLOCKS = 2  # that are in memory: the one that is computed, and the next


@dataclass(frozen=True)
class Plan:
    """A way to train a model on some GPUs."""

    shape: str
    machines: int
    gpus: int  # of each machine
    way: Literal["one", "ddp", "fsdp", "balanced"]
    typed: str

    @property
    def ranks(self) -> int:
        """Processes."""
        return self.machines * self.gpus if self.way in ("ddp", "fsdp") else 1


RECOMPUTE = "recompute_activations=true"
PLANS = (
    Plan("8b", 1, 1, "one", "base_model.device=cuda"),
    Plan("8b", 1, 8, "ddp", "trainer=ddp"),
    Plan("8b", 1, 8, "fsdp", "trainer=fsdp"),
    Plan("70b", 1, 8, "balanced", "base_model.device=balanced"),
    Plan("70b", 1, 8, "fsdp", f"trainer=fsdp {RECOMPUTE}"),
    Plan("70b", 2, 8, "fsdp", f"trainer=fsdp trainer.num_nodes=2 {RECOMPUTE}"),
)


def frozen(shape: Shape, work: Work) -> tuple[float, float]:
    """Bytes of the frozen numbers outside the blocks, and of all blocks with their factors."""
    outside = shape.head * (1 if shape.tied else 2) + shape.hidden
    return work.number_bytes * outside, work.number_bytes * (shape.parameters - outside + adapted(shape, work)[1])


def held(plan: Plan, work: Work) -> dict[str, float]:
    """Bytes of one GPU by part, of the fullest."""
    shape, parts = SHAPES[plan.shape], memory(SHAPES[plan.shape], work)
    outside, blocks = frozen(shape, work)
    share = plan.gpus if plan.way in ("fsdp", "balanced") else 1
    spread = plan.gpus if plan.way == "balanced" else 1  # blocks keep their own activations and cache
    return {
        "frozen": outside + blocks / share,
        "blocks": WHOLE_BLOCKS * blocks / shape.blocks if plan.way == "fsdp" else 0.0,
        "z and AdamW": parts["z and AdamW"],
        "activations": parts["activations"] / spread,
        "logits": parts["logits"],
        "cache": min(1.0, 64 / work.rows * plan.ranks) * parts["cache"] / plan.ranks / spread,  # 64: batch_rows
    }


def needed(plan: Plan, work: Work) -> float:
    """Bytes that one GPU needs: in the update or during rollouts, whichever is more."""
    parts = held(plan, work)
    always = parts["frozen"] + parts["blocks"] + parts["z and AdamW"]
    return always + max(parts["activations"] + parts["logits"], parts["cache"])


def seconds(plan: Plan, work: Work, gpu: GPU) -> dict[str, float]:
    """Seconds of a step by phase, with the exchange of blocks where they are sharded."""
    shape = SHAPES[plan.shape]
    outside, blocks = frozen(shape, work)
    own = replace(work, prompts=math.ceil(work.prompts / plan.ranks))  # of the rank with most
    operations, fast = flops(shape, own), gpu.half_flops * gpu.half_share
    gather = blocks * (plan.gpus - 1) / plan.gpus / (LINK * LINK_SHARE) if plan.way == "fsdp" else 0.0
    batches = math.ceil(own.rows / 64)  # of generation.batch_rows
    cache = memory(shape, own)["cache"] / batches
    factors = 2 * adapted(shape, own)[1] * own.rows * own.new_tokens  # multiplied by, beside W
    read = (outside + blocks + cache / 2) / (gpu.bandwidth * gpu.bandwidth_share)
    decode = (operations["decode"] + factors) / fast
    passes = 2 * math.ceil(own.update_tokens / own.micro_batch_tokens)  # a block is computed again while it is whole
    steps = own.new_tokens * batches
    return {
        "rollout": max(steps * max(read, gather), decode) + max(operations["prefill"] / fast, gather),
        "update": max(operations["update"] / fast, passes * gather),
    }


def rows(plans: Sequence[Plan], work: Work, gpu: GPU) -> list[Mapping[str, float | str]]:
    """A row for each plan."""
    found: list[Mapping[str, float | str]] = []
    for plan in plans:
        planned = replace(work, recompute=RECOMPUTE in plan.typed)
        spent = seconds(plan, planned, gpu)
        found.append(
            {
                "model": plan.shape,
                "GPUs": f"{plan.machines} x {plan.gpus}",
                "GB each": needed(plan, planned) / 1e9,
                **spent,
                "step, s": sum(spent.values()),
                "typed": plan.typed,
            }
        )
    return found


def report(prompts: int, rank: int | None, gpu: GPU) -> str:
    """The table."""
    return table(rows(PLANS, Work(prompts=prompts, rank=rank), gpu))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    made = parser(__doc__)
    made.add_argument("--prompts", type=count, default=16, help="of a step")
    made.add_argument("--rank", type=count, default=None, help="singular values that are learned of each matrix")
    made.add_argument("--gpu", choices=GPUS, default="h100")
    args = made.parse_args(argv)
    print(report(args.prompts, args.rank, GPUS[args.gpu]))


if __name__ == "__main__":
    main()
