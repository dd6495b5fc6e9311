"""An expert of two matrices, and what it is checked against."""

from dataclasses import replace

import torch

from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of

SINGULAR_VALUES = {
    "layers.0.q_proj": torch.tensor([3.0, 2.0, 1.0]),
    "layers.0.up_proj": torch.tensor([5.0, 4.0]),
}
FINGERPRINT = fingerprint_of(SINGULAR_VALUES)
METADATA = ExpertMetadata(
    base_model="org/small",
    fingerprint=FINGERPRINT,
    parametrization="sigmoid",
    task="gsm8k",
    domain="math",
    description="grade school ²×− word problems",
    objective="reinforce",
    step=25,
    t2_version="0.1.0",
    val_before=0.1,
    val_after=1 / 3,
    git_commit="abc123",
)


def make_expert(**changes) -> Expert:
    scales = {
        "layers.0.q_proj": torch.tensor([1.01, 0.99, 1.0]),
        "layers.0.up_proj": torch.tensor([1.001, 0.9]),
    }
    return Expert(scales, replace(METADATA, **changes))
