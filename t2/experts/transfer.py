"""Bringing an expert over to another model, and the controls that show what of it carries over (paper Table 5, §4.3).

The paper puts the vectors of Llama-3-8B on Mistral-7B, whose matrices have the same shapes, rank by rank of the
singular values (`ordered`), and asks with `shuffled` whether the order matters. `reversed` and `random` are two more
controls. Nothing is trained here, and modules correspond by name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from t2.experts.expert import Expert

Control = Literal["ordered", "shuffled", "reversed", "random"]


def transfer(
    expert: Expert,
    shapes: Mapping[str, int],
    *,
    base_model: str,
    fingerprint: str,
    control: Control = "ordered",
    seed: int = 0,
    resample: bool = False,
) -> Expert:
    """The expert as one of another model; scores of its old model are left out and the description tells of it.

    Args:
        expert: what was trained on the old model.
        shapes: adapted module of the new model -> R.
        base_model: source of the new model.
        fingerprint: `fingerprint_of` the new model's singular values.
        control: `ordered` leaves each z by rank of its singular value, `shuffled` permutes every matrix's z at random,
            `reversed` turns it around, `random` draws from a Gaussian of the same mean and deviation per matrix.
        seed: seeds `shuffled` and `random`.
        resample: where R differs, interpolate z linearly over the relative rank (0 the largest, 1 the smallest).

    Raises:
        ValueError: an unknown control, modules without counterpart, or another R without `resample`.
    """
    if control not in get_args(Control):
        near = get_close_matches(str(control), get_args(Control), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"The control is {control!r}; allowed: {', '.join(get_args(Control))}.{hint}")
    _check_modules(expert, shapes, base_model)
    generator = torch.Generator().manual_seed(seed)
    scales = {}
    for module, z in sorted(expert.scales.items()):  # in this order the seed means the same for every file
        fitted = _fit(module, z, shapes[module], resample=resample)
        scales[module] = _controlled(fitted, control, generator)
    source = expert.metadata
    seeded = f", seed {seed}" if control in ("shuffled", "random") else ""
    note = f"(transferred from {source.base_model}, {control}{seeded})"
    metadata = replace(
        source,
        base_model=base_model,
        fingerprint=fingerprint,
        description=f"{source.description} {note}".strip(),
        val_before=None,
        val_after=None,
    )
    return Expert(scales, metadata)


def _check_modules(expert: Expert, shapes: Mapping[str, int], base_model: str) -> None:
    foreign, bare = sorted(expert.scales.keys() - shapes.keys()), sorted(shapes.keys() - expert.scales.keys())
    if not foreign and not bare:
        return
    near = get_close_matches(foreign[0], bare, n=1) if foreign else []
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"The modules of {expert.metadata.base_model}'s expert and of {base_model} do not correspond. "
        f"The expert's alone: {_some(foreign)}. The model's alone: {_some(bare)}.{hint} "
        "Adapt the same modules in both models; blocks beyond the other's number have no counterpart."
    )


def _fit(module: str, z: Tensor, size: int, *, resample: bool) -> Tensor:
    """z (R,) at the new R."""
    if len(z) == size:
        return z.clone()
    if not resample:
        raise ValueError(
            f"The expert's scale of {module} has {len(z)} values and the new model's matrix {size} singular values. "
            "Set resample=true to interpolate over relative ranks."
        )
    stretched: Tensor = F.interpolate(z.double()[None, None], size=size, mode="linear", align_corners=True)[0, 0]
    return stretched.float()


def _controlled(z: Tensor, control: Control, generator: torch.Generator) -> Tensor:
    if control == "shuffled":
        return z[torch.randperm(len(z), generator=generator)]
    if control == "reversed":
        return z.flip(0)
    if control == "random":
        return z.mean() + z.std(correction=0) * torch.randn(len(z), generator=generator)
    return z


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more
