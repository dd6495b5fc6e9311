"""Which Linears of a mixture of experts are its routers: few numbers, on which the choice of experts hangs.

A router is a Linear whose outputs are the experts, or how much of a shared one is taken. Adapters adapt it where a
pattern names it, and not by `all` or `mlp`; a quantized model keeps it dense. Not done here: the experts.
"""

from __future__ import annotations

import re

from torch import nn

ROUTER = re.compile(r"(^|.*[._])(router|gate|wg|shared_expert_gate)([._].*|$)")
_EXPERTS = re.compile(r"(num|n|total).*experts")  # numbers of experts, as configurations call them


def expert_counts(model: nn.Module) -> set[int]:
    """The numbers of experts that a model's configuration names; empty for a dense model."""
    config = getattr(model, "config", None)
    named = {} if config is None else config.get_text_config().to_dict()
    return {value for key, value in named.items() if _EXPERTS.fullmatch(key) and type(value) is int and value > 1}


def is_router(name: str, module: nn.Module, counts: set[int]) -> bool:
    """Whether a Linear of a block chooses experts, or how much of a shared one is taken: by its name and outputs."""
    outputs = getattr(module, "out_features", 0)
    return bool(counts) and outputs in counts | {1} and ROUTER.fullmatch(name) is not None
