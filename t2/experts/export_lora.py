"""Writes an expert as a LoRA that plain PEFT loads: B A is the change of each matrix, or the best of rank k.

    W' - W = U diag(d) Vh, d = s (z - 1)        B = U_K sign(d_K) sqrt|d_K|        A = sqrt|d_K| Vh_K

with K the k largest |d_i|. By Eckart and Young (1936) no matrix of rank k is nearer to the change, and the relative
error, in the Frobenius norm, is what is dropped: sqrt(sum of d_i² not in K / sum of d_i²). That is exact, and needs no
product. An expert of k singular values (`t2.adapters.spectrum`) is a LoRA of rank k without error.

Numbers are fp32 whatever the model's dtype. lora_alpha is r everywhere, so that PEFT's scaling is 1. Not done here:
merged weights (`t2.experts.export_hf`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from t2.adapters.fused_targets import refuse_stacks
from t2.adapters.states import check_state
from t2.adapters.svf import SVF
from t2.adapters.svf_linear import matrix_shape
from t2.adapters.thin_correction import exact
from t2.experts.export_hf import CONFIG_BYTES
from t2.experts.provenance import save_provenance
from t2.models.language_model import LanguageModel
from t2.run.files import atomic_folder
from t2.run.messages import check_range

ADAPTER_FILE = "adapter_model.safetensors"  # PEFT's own name


@dataclass(frozen=True)
class Truncated:
    """The change of one matrix: d (k,) of the singular values that have a number, and which of them are kept (r,)."""

    module: str  # as in experts
    path: str  # in the model
    change: Tensor  # d, float64
    kept: Tensor  # indices into d, by falling |d|

    @property
    def rank(self) -> int:
        """The rank r of what is kept; 0 where the matrix does not change."""
        return len(self.kept)

    @property
    def squared_norm(self) -> float:
        """The squared Frobenius norm of the change."""
        return float(self.change.square().sum())

    @property
    def squared_error(self) -> float:
        """The squared Frobenius norm of what is dropped."""
        return float(self.change.square().index_fill(0, self.kept, 0.0).sum())

    @property
    def relative_error(self) -> float:
        """The Frobenius norm of what is dropped over that of the change, 0 to 1; 0 where nothing changes."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.rank else 0.0


def truncate(adapter: SVF, state: Mapping[str, Tensor], rank: int | None) -> list[Truncated]:
    """What of each matrix's change, by the multipliers `state` (module -> z (R,)), a LoRA of `rank` keeps.

    None keeps every singular value whose multiplier is not 1.

    Raises:
        ValueError: `state` does not fit the adapted matrices or changes none, or `rank` is below 1 or above every R.
    """
    check_state(state, adapter.sizes)
    refuse_stacks(adapter.stacks, "A LoRA", "Export whole weights (to=hf)")
    if rank is not None:
        check_range(f"rank (null for all; the matrices have up to {max(adapter.sizes.values())} singular values)", rank,
                    at_least=1, at_most=max(adapter.sizes.values()))  # fmt: skip
    found = []
    for module, learned in adapter.learned.items():
        z = learned.of(state[module]) if module in state else torch.ones(len(learned.index))
        change = adapter.singular_values[module][learned.index].double() * (z.cpu() - 1.0).double()
        count = int((change != 0).sum())
        order = change.abs().argsort(descending=True, stable=True)[: count if rank is None else min(rank, count)]
        found.append(Truncated(module, adapter.paths[module], change, order))
    if not any(one.rank for one in found):
        raise ValueError("There is nothing to export: all multipliers are 1, which is the base model.")
    return found


def total_error(truncated: Iterable[Truncated]) -> float:
    """The relative error of all matrices together, in the Frobenius norm."""
    parts = [(one.squared_error, one.squared_norm) for one in truncated]
    return math.sqrt(sum(error for error, _ in parts) / sum(norm for _, norm in parts))


@torch.no_grad()
def factors(adapter: SVF, state: Mapping[str, Tensor], one: Truncated) -> tuple[Tensor, Tensor]:
    """The factors B (n_out, r) and A (r, n_in) of a matrix, fp32, on the CPU: B A is its truncated change."""
    layer, kept = adapter.layers[one.module], one.kept
    z = adapter.learned[one.module].of(state[one.module]).cpu()[kept]
    root = one.change[kept].abs().sqrt().float()
    output = exact(layer.output_factor.detach()[:, kept.to(layer.output_factor.device)]).cpu()  # U s
    inputs = exact(layer.input_factor.detach()[kept.to(layer.input_factor.device)]).cpu()  # Vh
    return (output * ((z - 1.0) / root)).float().contiguous(), (inputs * root[:, None]).float().contiguous()


def export_lora(
    lm: LanguageModel,
    adapter: SVF,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    truncated: Sequence[Truncated],
    applied: Mapping[str, Any],
) -> Path:
    """Write what `truncate` kept as a PEFT folder with `export.json`; returns the folder.

    Raises:
        FileExistsError: the folder is there and not empty.
        OSError: the disk is full; nothing is left behind.
    """
    kept = [one for one in truncated if one.rank]
    sizes = (sum(matrix_shape(adapter.layers[one.module].base)) * one.rank * 4 for one in kept)
    with atomic_folder(folder, needed_bytes=sum(sizes) + CONFIG_BYTES) as partial:
        tensors = {}
        for one in kept:
            output, inputs = factors(adapter, state, one)
            tensors[f"base_model.model.{one.path}.lora_A.weight"] = inputs
            tensors[f"base_model.model.{one.path}.lora_B.weight"] = output
        save_file(tensors, partial / ADAPTER_FILE, metadata={"format": "pt"})
        _lora_config(lm, adapter, kept).save_pretrained(partial)
        errors = {one.path: {"rank": one.rank, "relative_error": one.relative_error} for one in truncated}
        lora = {"relative_error": total_error(truncated), "matrices": errors}
        save_provenance(partial, to="lora", base_model=lm.source, dtype="float32", applied={**applied, "lora": lora})
    return folder


def _lora_config(lm: LanguageModel, adapter: SVF, kept: Sequence[Truncated]) -> Any:
    """PEFT's LoraConfig of the matrices that are kept; those with less than the largest rank have a pattern."""
    from peft import LoraConfig  # here: it takes seconds to import

    rank = max(one.rank for one in kept)
    lower = {one.path: one.rank for one in kept if one.rank < rank}
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=_target_modules(lm, [one.path for one in kept]),
        rank_pattern=dict(lower),
        alpha_pattern=dict(lower),
        fan_in_fan_out=any(isinstance(adapter.layers[one.module].base, Conv1D) for one in kept),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=lm.source,
    )


def _target_modules(lm: LanguageModel, paths: Sequence[str]) -> list[str]:
    """The last parts of the modules' names (`q_proj`) where these name no other module, else the whole names."""
    leaves = {path.rpartition(".")[2] for path in paths}
    named = {name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] in leaves}
    return sorted(leaves) if named == set(paths) else list(paths)
