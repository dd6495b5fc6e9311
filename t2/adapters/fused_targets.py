"""3-D parameters that hold a matrix per expert: which they are, and which of their dimensions is the input.

transformers holds the experts of a mixture in one parameter, whose first dimension is the expert, and runs them by
grouped products. Its classes say how a matrix lies (`is_transposed`); of those that do not, a table and then the
model's width decide, and where that says nothing the parameter is refused. Kernels of convolutions are 3-D, too, and
no experts. Not done here: Linears (`t2.adapters.targets`), what is left (`t2.adapters.coverage`), routers
(`t2.models.routers`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

# transformers' classes of experts that do not say how they lie: whether W[e] is (n_in, n_out).
TRANSPOSED = {
    "InklingSharedExperts": False,
    "JetMoeParallelExperts": False,
    "Llama4TextExperts": True,
    "LongcatFlashExperts": False,
    "Step3p7Experts": False,
}
READS_WIDTH = ("gate_up_proj", "gate_proj", "up_proj", "w1", "w3")  # their input is as wide as the model
WRITES_WIDTH = ("down_proj", "w2")


@dataclass(frozen=True)
class FusedTarget:
    """The parameter `leaf` (E, ·, ·) of a module of experts; `transposed` where W[e] is (n_in, n_out)."""

    experts: nn.Module
    leaf: str
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """The parameter, as it is."""
        weight: Tensor = getattr(self.experts, self.leaf)
        return weight

    @property
    def matrices(self) -> Tensor:
        """The parameter as (E, n_out, n_in), a view."""
        return self.weight.transpose(1, 2) if self.transposed else self.weight


def fused_parameters(block: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (module name, module of experts, parameter name) of each parameter of a block that holds experts."""
    for name, module in block.named_modules():
        says_how = isinstance(getattr(module, "is_transposed", None), bool)
        if says_how or "Experts" in type(module).__name__:
            for leaf, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield name, module, leaf


def fused_target(path: str, experts: nn.Module, leaf: str, width: int | None) -> FusedTarget:
    """The parameter called `path`, with its orientation; `width` is that of the model's hidden states.

    Raises:
        ValueError: nothing says which dimension is the input.
    """
    says_how, kind = getattr(experts, "is_transposed", None), type(experts).__name__
    if isinstance(says_how, bool):
        return FusedTarget(experts, leaf, says_how)
    if kind in TRANSPOSED:
        return FusedTarget(experts, leaf, TRANSPOSED[kind])
    shape = tuple(getattr(experts, leaf).shape)
    at = [dimension for dimension in (1, 2) if shape[dimension] == width]
    if len(at) == 1 and leaf in (*READS_WIDTH, *WRITES_WIDTH):
        return FusedTarget(experts, leaf, transposed=(at[0] == 1) == (leaf in READS_WIDTH))
    raise ValueError(
        f"{path} {shape} holds a matrix per expert, and neither its class ({kind}) nor its shape says which dimension "
        "is the input. Leave it out by adapter.modules (attention, or a list of modules), or add the class to "
        "t2.adapters.fused_targets.TRANSPOSED."
    )


def refuse_stacks(stacks: Collection[str], what: str, instead: str) -> None:
    """Raise ValueError where an adapter has parameters of experts: `what` knows Linears alone; do `instead`."""
    if stacks:
        raise ValueError(
            f"{what} takes matrices of Linear modules alone, and this adapter has {len(stacks)} parameters that hold "
            f"a matrix per expert, {next(iter(stacks))} for one. {instead}, or leave the experts out "
            "(adapter.modules=attention)."
        )
