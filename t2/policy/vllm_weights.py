"""What an engine with weights of its own is sent when the adapter has moved.

Engines fuse matrices (q, k, v; gate and up) and want all parts of a fused one, so beside an adapted matrix its siblings
are sent as well, and nothing else. How they are sent is the engine's business (`t2.policy.vllm`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel


@torch.no_grad()
def complete_weights(
    lm: LanguageModel, modules: Collection[str], adapter: Adapter | None, state: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of `modules`, merged where `adapter` holds them, and of the modules beside them as in the base.

    `state` is applied instead of what the adapter has learned. Names are those of the base model's checkpoint.
    """
    merged: set[str] = set()
    for name, weight in adapter.merged_weights(state) if adapter is not None else ():
        merged.add(name)
        yield name, weight
    parents = {module.rpartition(".")[0] for module in modules}
    for name, parameter in lm.model.named_parameters():
        plain = name.replace(".base.", ".")  # an adapted Linear holds its base under this name
        parent = plain.rpartition(".")[0].rpartition(".")[0]
        if parent in parents and plain not in merged and ".parametrization." not in name:
            yield plain, parameter.data.contiguous()


def same_state(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    """Whether two adapter states are equal, number for number; None is the base's."""
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
