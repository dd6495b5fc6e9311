"""Cross-model transfer of an expert, and its control experiments (arXiv 2501.06252, section 4.3, Table 5).

The paper applies the vectors z of Llama-3-8B to Mistral-7B, whose matrices have the same shapes, in the order of the
singular values (`ordered`), and tests with `shuffled` whether that order matters. `reversed` and `random` are two more
controls. Modules correspond by name. Not done here: training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from t2.experts.expert import Expert
from t2.run.messages import check_choice, did_you_mean

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
    """Convert an expert to another model; its scores are dropped and its description names the old model.

    Which multipliers were learned is kept where every one stays in its place.

    Args:
        expert: the expert of the old model.
        shapes: adapted module of the new model -> R.
        base_model: source of the new model.
        fingerprint: `fingerprint_of` the new model's singular values.
        control: `ordered` keeps z in the order of singular values, `shuffled` permutes each matrix's z at random,
            `reversed` reverses it, `random` draws from a Gaussian of the same mean and deviation per matrix.
        seed: seeds `shuffled` and `random`.
        resample: where R differs, interpolate z linearly over the relative index (0 the largest singular value, 1 the
            smallest).

    Raises:
        ValueError: an unknown control, modules without counterpart, or a different R without `resample`.
    """
    check_choice("The control", control, get_args(Control))
    _check_modules(expert, shapes, base_model)
    generator = torch.Generator().manual_seed(seed)
    scales = {}
    for module, z in sorted(expert.scales.items()):  # sorted, so that a seed gives the same for any order in the file
        fitted = _fit(module, z, shapes[module], resample=resample)
        scales[module] = _controlled(fitted, control, generator)
    source = expert.metadata
    seeded = f", seed {seed}" if control in ("shuffled", "random") else ""
    note = f"(transferred from {source.base_model}, {control}{seeded})"
    in_place = control == "ordered" and all(len(z) == shapes[module] for module, z in expert.scales.items())
    metadata = replace(
        source,
        base_model=base_model,
        fingerprint=fingerprint,
        description=f"{source.description} {note}".strip(),
        val_before=None,
        val_after=None,
        learned=source.learned if in_place else None,
    )
    return Expert(scales, metadata)


def _check_modules(expert: Expert, shapes: Mapping[str, int], base_model: str) -> None:
    foreign, bare = sorted(expert.scales.keys() - shapes.keys()), sorted(shapes.keys() - expert.scales.keys())
    if not foreign and not bare:
        return
    hint = did_you_mean(foreign[0], bare) if foreign else ""
    raise ValueError(
        f"The modules of {expert.metadata.base_model}'s expert and of {base_model} do not correspond. "
        f"The expert's alone: {_some(foreign)}. The model's alone: {_some(bare)}.{hint} "
        "Adapt the same modules in both models; blocks beyond the other's number have no counterpart."
    )


def _fit(module: str, z: Tensor, size: int, *, resample: bool) -> Tensor:
    """Resample z (R,) to (size,) by linear interpolation, if need be and `resample` allows it."""
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
