"""What a step needs on one GPU, on eight, and on two machines of eight: memory of each GPU and seconds, computed.

    python bench/scale_plan.py [--prompts 16] [--rank 16] [--gpu h100]

The numbers are those of `t2.costs`; rollouts are factored, as they are for a base in bf16. Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cost_model import shape
from measure import count, parser, table

from t2.costs.gpus import GPU, gpus
from t2.costs.placement import Placement, held, needed, seconds
from t2.costs.step import Work


@dataclass(frozen=True)
class Plan:
    """A model, a way to train it, and what is typed for it."""

    model: str
    placement: Placement
    typed: str


RECOMPUTE = "recompute_activations=true"
PLANS = (
    Plan("8b", Placement(), "base_model.device=cuda"),
    Plan("8b", Placement("ddp", 1, 8), "trainer=ddp"),
    Plan("8b", Placement("fsdp", 1, 8), "trainer=fsdp"),
    Plan("70b", Placement("balanced", 1, 8), "base_model.device=balanced"),
    Plan("70b", Placement("fsdp", 1, 8), f"trainer=fsdp {RECOMPUTE}"),
    Plan("70b", Placement("fsdp", 2, 8), f"trainer=fsdp trainer.num_nodes=2 {RECOMPUTE}"),
)


def gigabytes(plan: Plan, work: Work) -> float:
    """GB that one GPU needs: in the update or during rollouts, whichever is more."""
    return max(needed(held(shape(plan.model), work, plan.placement)).values()) / 1e9


def rows(plans: Sequence[Plan], work: Work, gpu: GPU) -> list[Mapping[str, float | str]]:
    """A row for each plan."""
    found: list[Mapping[str, float | str]] = []
    for plan in plans:
        planned = replace(work, recompute=RECOMPUTE in plan.typed)
        spent = seconds(shape(plan.model), planned, gpu, plan.placement)
        found.append(
            {
                "model": plan.model,
                "GPUs": f"{plan.placement.machines} x {plan.placement.gpus}",
                "GB each": gigabytes(plan, planned),
                "rollout": spent["prefill"] + spent["decode"],
                "update": spent["update"],
                "step, s": sum(spent.values()),
                "typed": plan.typed,
            }
        )
    return found


def report(prompts: int, rank: int | None, gpu: GPU) -> str:
    """The table."""
    return table(rows(PLANS, Work(prompts=prompts, rank=rank, merged_bytes=None), gpu))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    made = parser(__doc__)
    made.add_argument("--prompts", type=count, default=16, help="of a step")
    made.add_argument("--rank", type=count, default=None, help="singular values that are learned of each matrix")
    made.add_argument("--gpu", choices=gpus(), default="h100")
    args = made.parse_args(argv)
    print(report(args.prompts, args.rank, gpus()[args.gpu]))


if __name__ == "__main__":
    main()
