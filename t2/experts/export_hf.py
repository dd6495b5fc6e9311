"""Writes an adapted model as a folder that plain transformers loads: W' in place of W, everything else as it was.

    W' = W + U diag(s (z - 1)) Vh        (arXiv 2501.06252, section 3.1)

The folder has the config, the generation config, the tokenizer with its chat template (the processor of a
vision-language model), and the weights in shards, tied ones once. transformers itself writes it (`save_pretrained`), a
shard at a time. Not done here: a LoRA (`t2.experts.export_lora`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear, dense_weight
from t2.experts.provenance import save_provenance
from t2.models.language_model import LanguageModel
from t2.models.quantized_linear import QuantizedLinear, refuse_quantized
from t2.run.files import atomic_folder

SHARD_SIZE = re.compile(r"\d+(\.\d+)?\s?[KMGT]B", re.IGNORECASE)
CONFIG_BYTES = 50_000_000  # room for tokenizer and configs
INSTEAD = (
    "a folder of whole weights has no place for W' in them. Export what is learned as a LoRA beside the quantized base "
    "(to=lora), or apply the expert to the dense base (base_model.quantization=none)."
)


def check_shard_size(size: str) -> None:
    """Raise ValueError unless a size is a number with its unit."""
    if not SHARD_SIZE.fullmatch(size):
        raise ValueError(f"max_shard_size is {size!r}; allowed: a number and its unit, such as 5GB, 500MB or 20KB.")


@torch.no_grad()
def merge_into_base(lm: LanguageModel, adapter: SVF, state: Mapping[str, Tensor]) -> None:
    """Take the adapter out of the model, which has the weights W' of `state` from then on, in the dtype that W had.

    The base's own weights and the adapter's factors are freed, matrix by matrix, so that no second model is held.

    Raises:
        ValueError: `state` does not fit the adapted matrices; nothing has changed then.
    """
    own, changes = adapter.low_rank.of_state(state, adapter.sizes)
    assert own is not None, "a state is given"
    given = {name: own[name] if name in own else torch.ones(size) for name, size in adapter.sizes.items()}
    known = {name: unit.learned_of(given) for name, unit in adapter.units.items()}
    with adapter.low_rank.applied(changes, adapter.layers):
        _take_out(lm, adapter, own, known)


def _take_out(lm: LanguageModel, adapter: SVF, state: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
    """Put every module back where it was, with W' where the state says something; `known` are z by unit."""
    adapter.layers.clear()
    for name in list(adapter.units):
        unit = adapter.units.pop(name)
        changes = not state.keys().isdisjoint(unit.learned)
        if isinstance(unit.layer, SVFLinear):
            _unwrap(lm, unit.path, unit.layer, known[name] if changes else None)
            continue
        target = unit.layer.target
        if changes:
            target.weight.data = unit.layer.compose(known[name].to(unit.layer.input_factor.device))
        _put(lm, unit.path.rpartition(".")[0], target.experts)


def _unwrap(lm: LanguageModel, path: str, layer: SVFLinear, z: Tensor | None) -> None:
    """Put a Linear back where it was, with W' of z (k,), or with its own weight."""
    weight = dense_weight(layer.base) if z is None else layer.compose(z.to(layer.input_factor.device))
    assert not isinstance(layer.base, QuantizedLinear), "refused"
    layer.base.weight.data = (weight.T if isinstance(layer.base, Conv1D) else weight).contiguous()
    _put(lm, path, layer.base)


def _put(lm: LanguageModel, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(lm.model.get_submodule(parent), child, module)


def export_hf(
    lm: LanguageModel,
    adapter: SVF,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    applied: Mapping[str, Any],
    max_shard_size: str = "5GB",
) -> Path:
    """Write the model with the multipliers `state` (module -> z (R,)) to a new folder; returns the folder.

    The adapter is taken out of the model (`merge_into_base`). `applied` goes into `export.json`.

    Raises:
        ValueError: `state` does not fit the adapted matrices, the model is quantized, or the size is none.
        FileExistsError: the folder is there and not empty.
        OSError: the disk is full; nothing is left behind.
    """
    check_shard_size(max_shard_size)
    refuse_quantized(lm.model, INSTEAD)
    weights = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in lm.model.state_dict().values()}
    with atomic_folder(folder, needed_bytes=sum(weights.values()) + CONFIG_BYTES) as partial:
        merge_into_base(lm, adapter, state)
        lm.model.save_pretrained(partial, max_shard_size=max_shard_size)
        (lm.tokenizer if lm.processor is None else lm.processor).save_pretrained(partial)
        dtype = str(lm.dtype).removeprefix("torch.")
        save_provenance(partial, to="hf", base_model=lm.source, dtype=dtype, applied=applied)
    return folder
