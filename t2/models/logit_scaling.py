"""What architectures do with logits after the head: a factor, a divisor, a soft cap.

Not done here: which tokens may come (`t2.models.language_model`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def scaled(logits: Tensor, config: PreTrainedConfig) -> Tensor:
    """Logits (..., V) as the model of a text configuration has them."""
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
        logits = cap * torch.tanh(logits / cap)
    return logits
