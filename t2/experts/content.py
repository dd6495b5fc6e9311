"""Checks of what an expert's file holds: values, modules, metadata. Every one raises ValueError with its reason.

They find what a checksum cannot: files of other programs, of an older t2 (which had no checksum), and numbers that a
diverged training wrote. Whether an expert fits a model is checked by `t2.experts.expert.Expert.check`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2.experts.fingerprint import modules_of

# An effective multiplier is positive, since a singular value is not negative and 0 would remove its direction for good.
# The bound is generous: trained z lie within a few percent of 1, and a weight a thousand times its size is no weight.
MAX_MULTIPLIER = 1e3
ADAPTER_FILE = "adapter.safetensors"  # what a run with another adapter than SVF saves (`t2.experts.adapter_weights`)


def check_scales(scales: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless every scale z is a finite, non-empty fp32 vector (R,)."""
    if not scales:
        raise ValueError("the expert is empty: it scales no module. An expert has at least one.")
    for module, z in scales.items():
        if z.ndim != 1 or z.numel() == 0 or z.dtype != torch.float32:
            raise ValueError(
                f"the scale of {module} is {z.dtype} of shape {tuple(z.shape)}; "
                "an expert holds one float32 vector (R,) per module."
            )
        bad = int((~z.isfinite()).sum())
        if bad:
            raise ValueError(
                f"the scale of {module} has {bad} of {z.numel()} values that are NaN or infinite. "
                "The training diverged: lower the learning rate or take an earlier checkpoint."
            )


def out_of_range(scales: Mapping[str, Tensor]) -> str | None:
    """What is wrong where a multiplier z is not above 0 and below `MAX_MULTIPLIER`; None where all are."""
    for module, z in scales.items():
        bad = z[(z <= 0) | (z >= MAX_MULTIPLIER)]
        if len(bad):
            return (
                f"the scale of {module} has {len(bad)} of {len(z)} multipliers such as {bad[0].item():g}; allowed: "
                f"above 0 and below {MAX_MULTIPLIER:g}. The training diverged (lower the learning rate or take an "
                "earlier expert), or the file is damaged."
            )
    return None


def check_range(scales: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a multiplier is `out_of_range`; for files, kept or read."""
    if (reason := out_of_range(scales)) is not None:
        raise ValueError(reason)


def check_modules(modules: Collection[str], fingerprint: str) -> None:
    """Raise ValueError unless an expert scales the modules that its own fingerprint has, all of them and no other."""
    expected = modules_of(fingerprint)
    lacking, foreign = sorted(expected - set(modules)), sorted(set(modules) - expected)
    if lacking:
        raise ValueError(
            f"it lacks the scales of {len(lacking)} of its {len(expected)} modules, {lacking[0]} for one. The file is "
            "damaged; copy it again."
        )
    if foreign:
        raise ValueError(
            f"it scales {len(foreign)} modules that its fingerprint does not know, {foreign[0]} for one. The file is "
            "damaged; copy it again."
        )


def check_score(name: str, value: float | None) -> None:
    """Raise ValueError unless a score is absent or in 0 to 1."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"its metadata has {name} = {value}; a score is in 0 to 1.")


def check_is_svf(strings: Mapping[str, str]) -> None:
    """Raise ValueError where the metadata of a file says that another adapter than SVF was trained."""
    if "adapter" in strings:
        raise ValueError(
            f"it holds what adapter={strings['parametrization']} learned, not multipliers of singular values. "
            f"evaluate.py takes it with adapter={strings['parametrization']}; a pool takes SVF experts alone."
        )


def why_no_expert(run: Path) -> str:
    """Why the folder of a run holds no expert, to end a message with."""
    if (run / ADAPTER_FILE).is_file():
        return f"it holds {ADAPTER_FILE}, of another adapter than SVF. Give adapter= as that run was trained with."
    return "it is not the folder of a training run that has validated yet."
