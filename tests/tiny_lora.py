"""A random LoRA of a tiny model, in the files of PEFT."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny


def save_lora(folder: Path, architecture: str = "llama", **settings) -> Path:
    """A random LoRA of the tiny model, as plain PEFT saves it."""
    lm = tiny(architecture)
    modules = ["c_attn", "c_proj"] if architecture == "gpt2" else ["q_proj", "down_proj"]
    known = {"r": 3, "lora_alpha": 5, "target_modules": modules, "task_type": "CAUSAL_LM"}
    model = get_peft_model(lm.model, LoraConfig(**(known | settings)))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    model.peft_config["default"].base_model_name_or_path = lm.source
    model.save_pretrained(folder)
    return folder
