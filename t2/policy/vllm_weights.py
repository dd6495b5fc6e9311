"""The weights that an inference engine with a copy of the model is sent when the adapter has changed.

Engines fuse matrices (q, k, v; gate and up) and expect all parts of a fused matrix, so the siblings of an adapted
matrix are sent too, and nothing else. Sending them is done in `t2.policy.vllm`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from t2.adapters.base import Adapter, NamedAdapter
from t2.adapters.fused_targets import refuse_stacks
from t2.adapters.targets import text_name
from t2.models.language_model import LanguageModel


@torch.no_grad()
def complete_weights(
    lm: LanguageModel, modules: Collection[str], adapter: Adapter | None, state: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of `modules`, merged where `adapter` adapts them, and of their siblings as in the base.

    `state` replaces the adapter's own. Names are those of the base model's checkpoint.
    """
    refuse_stacks(getattr(adapter, "stacks", ()), "vLLM", "Use generation=hf")
    merged: set[str] = set()
    for name, weight in adapter.merged_weights(state) if adapter is not None else ():
        merged.add(name)
        yield name, weight
    parents = {module.rpartition(".")[0] for module in modules}
    for name, parameter in lm.model.named_parameters():
        plain = plain_name(name)
        if plain is None or plain in merged:
            continue
        if text_name(lm.model, plain).rpartition(".")[0].rpartition(".")[0] in parents:
            yield plain, parameter.data.contiguous()


def plain_name(name: str) -> str | None:
    """The name that a parameter of an adapted model has in its checkpoint; None for one of the adapter."""
    if ".parametrization." in name:
        return None
    return name.replace(".base.", ".").replace(".base_layer.", ".")  # SVF's and PEFT's names of what they wrap


def modules_of(adapter: Adapter | None, names: Collection[str]) -> set[str]:
    """The modules that states of `adapter` with these names change: SVF names modules, others parameters of any."""
    if isinstance(adapter, NamedAdapter) and names:
        return set(adapter.frobenius_norms)
    return set(names)


def same_state(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    """Whether two adapter states are equal, number for number; None is the base's."""
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
