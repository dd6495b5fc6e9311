"""Every adapter at a size for tiny models, injected and moved from its start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny

from t2.adapters.peft import PeftAdapter
from t2.adapters.random_basis import RandomBasis
from t2.adapters.steering import Steering
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel

LORA = {"r": 4, "lora_alpha": 8}
MAKERS: dict[str, Any] = {
    "svf": lambda seed: SVF(cache=False, progress=False, seed=seed),
    "svf_top": lambda seed: SVF(cache=False, progress=False, seed=seed, spectrum="top", rank=4),
    "lora": lambda seed: PeftAdapter("lora", LORA, seed=seed),
    "dora": lambda seed: PeftAdapter("lora", {**LORA, "use_dora": True}, seed=seed),
    "ia3": lambda seed: PeftAdapter(
        "ia3", {"feedforward_modules": ["down_proj"]}, modules=["k_proj", "v_proj", "down_proj"], seed=seed
    ),
    "vera": lambda seed: PeftAdapter("vera", {"r": 8}, seed=seed),
    "tinylora": lambda seed: PeftAdapter("tinylora", {"u": 8}, seed=seed),
    "steering": lambda seed: Steering(),
    "random_basis": lambda seed: RandomBasis(4, cache=False, progress=False, seed=seed),
}
PEFT = ("lora", "dora", "ia3", "vera", "tinylora")
OTHERS = (*PEFT, "steering", "random_basis")  # those without multipliers
each_adapter = pytest.mark.parametrize("name", list(MAKERS))
each_peft = pytest.mark.parametrize("name", PEFT)
each_other = pytest.mark.parametrize("name", OTHERS)


def injected(name: str, lm: LanguageModel | None = None, *, seed: int = 0, spread: float = 0.0) -> tuple[Any, Any]:
    """A tiny model, or `lm`, with the named adapter at its start, or `spread` around it."""
    lm = lm or tiny()
    adapter = MAKERS[name](seed)
    adapter.inject(lm.model, lm.source)
    if spread:
        move(adapter, spread)
    return lm, adapter


@torch.no_grad()
def move(adapter: Any, spread: float, seed: int = 0) -> None:
    """Add noise to everything that is trained."""
    noise = torch.Generator().manual_seed(seed)
    for parameter in adapter.trainable():
        parameter.add_(spread * torch.randn(parameter.shape, generator=noise))
