"""The tiny model and adapter of all tests: originals are made once, tests get deep copies."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import ARCHITECTURES, tiny_model
from t2.types import Completion

each_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
IDS = torch.randint(256, (5, 10), generator=torch.Generator().manual_seed(0))

original = functools.cache(tiny_model)  # shared by all tests: not to be changed


def tiny(architecture: str = "llama", *, dtype: torch.dtype = torch.float32, ends: bool = False) -> LanguageModel:
    """A copy of its own; `ends` makes one token in twelve end a completion, and never the real end token."""
    lm = copy.deepcopy(original(architecture))
    lm.model.to(dtype)
    if ends:
        lm.end_ids = frozenset(range(0, len(lm.tokenizer), 12))
    return lm


def adapt(lm: LanguageModel, *, spread: float = 0.0, seed: int = 0, **settings: Any) -> SVF:
    """SVF injected into a model, its z at 1 or `spread` around it."""
    svf = SVF(cache=False, progress=False, **settings)
    svf.inject(lm.model, lm.source)
    if spread:
        svf.load(random_state(svf, seed, spread))
    return svf


def adapted(
    architecture: str = "llama", *, dtype: torch.dtype = torch.float32, ends: bool = False, **settings: Any
) -> tuple[LanguageModel, SVF]:
    """A tiny model of its own with SVF; `settings` are those of `adapt`."""
    lm = tiny(architecture, dtype=dtype, ends=ends)
    return lm, adapt(lm, **settings)


def random_state(svf: SVF, seed: int = 0, spread: float = 0.2) -> dict[str, Tensor]:
    """Random multipliers around 1, module -> (R,)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 1 + spread * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}


def stacked(*states: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per-example scales of D states, module -> (D, R)."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@torch.no_grad()
def logits(lm: LanguageModel, ids: Tensor = IDS) -> Tensor:
    return lm.model(input_ids=ids).logits


def token_ids(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


def same_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states hold the same numbers for the same modules."""
    return one.keys() == other.keys() and all(torch.equal(z, other[name]) for name, z in one.items())
