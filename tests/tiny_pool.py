"""Random experts and pools, of hand-made sizes or for the tiny model, in memory or in a folder."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tiny_models import adapt, adapted
from torch import Tensor

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

DOMAINS = ("math", "letters")
SIZES = {"layers.10.up": 4, "layers.2.up": 6, "layers.2.q": 3}  # not in the order of a mixture's columns
METADATA = ExpertMetadata(
    base_model="org/small",
    fingerprint="",
    parametrization="direct",
    task="gcd",
    domain="",
    description="",
    objective="RLOO",
    step=1,
    t2_version="test",
)


def singular_values(sizes: Mapping[str, int] = SIZES, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {module: torch.rand(size, generator=generator) + 0.5 for module, size in sizes.items()}


def make_expert(
    seed: int, values: Mapping[str, Tensor] | None = None, *, spread: float = 0.01, **changes: object
) -> Expert:
    """A random expert for the given singular values; `spread` is by default what training moves z by."""
    values = values or singular_values()
    generator = torch.Generator().manual_seed(seed)
    scales = {
        module: (1 + spread * torch.randn(len(s), generator=generator)).clamp_min(0.05) for module, s in values.items()
    }
    known = {"fingerprint": fingerprint_of(values), "domain": f"domain_{seed}", "step": seed}
    return Expert(scales, replace(METADATA, **(known | changes)))


def per_matrix(seed: int, matrices: int = len(SIZES), experts: int = 3) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    return Mixture(tuple(map(tuple, torch.randn(experts, matrices, generator=generator).tolist())))


def tiny_generator() -> HFGenerator:
    """The tiny model of conf/base_model/tiny.yaml, with SVF injected."""
    return HFGenerator(*adapted())


def tiny_pool(
    generator: HFGenerator, domains: Sequence[str] = DOMAINS, *, dispatch: bool = False, **changes: object
) -> ExpertPool:
    """An expert per domain, and one for dispatch, whose multipliers change the completions of the tiny model."""
    assert isinstance(generator.adapter, SVF)
    values = generator.adapter.singular_values
    names = [*domains, "dispatch"] if dispatch else domains
    experts = {}
    for seed, domain in enumerate(names):
        about = {"task": domain, "domain": domain, "description": f"questions about {domain}", "step": 1}
        own = {"base_model": generator.lm.source, **about, **changes}
        experts[domain] = make_expert(seed, values, spread=0.3, **own)
    return ExpertPool({domain: experts[domain] for domain in domains}, experts.get("dispatch"))


@functools.cache
def _pooled(domains: tuple[str, ...], dispatch: bool, layers: int, context_length: int) -> PooledModel:
    lm = tiny_model(layers=layers, context_length=context_length)
    generator = HFGenerator(lm, adapt(lm))
    return PooledModel(generator, tiny_pool(generator, domains, dispatch=dispatch))


def pooled(
    *domains: str, dispatch: bool = False, layers: int = 1, context_length: int = 512, batch_rows: int = 64
) -> PooledModel:
    """A tiny model of its own with a `tiny_pool`, by default of math and letters."""
    model = copy.deepcopy(_pooled(domains or DOMAINS, dispatch, layers, context_length))
    model.generator.batch_rows = batch_rows
    return model


def save_pool(folder: Path, domains: Sequence[str] = DOMAINS) -> Path:
    """A `tiny_pool` as files in a folder."""
    folder.mkdir(parents=True)
    for domain, expert in tiny_pool(tiny_generator(), domains).experts.items():
        expert.save(folder / f"{domain}.safetensors")
    return folder


class Merging:
    """A generator without per-example scales, as vLLM's is."""

    def __init__(self, inner: HFGenerator) -> None:
        self.inner, self.lm, self.adapter = inner, inner.lm, inner.adapter

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        return self.inner.generate(examples, sampling)

    def with_state(self, state: Mapping[str, Tensor]) -> HFGenerator:
        return self.inner.with_state(state)
