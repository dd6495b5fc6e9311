"""A pool of random experts for the tiny model, in memory or in a folder, for tests that need one to adapt with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator

DOMAINS = ("math", "letters")


def tiny_generator() -> HFGenerator:
    """The tiny model of conf/base_model/tiny.yaml, with SVF injected."""
    lm = tiny_model()
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    return HFGenerator(lm, svf)


def tiny_pool(generator: HFGenerator, domains: Sequence[str] = DOMAINS) -> ExpertPool:
    """An expert per domain whose multipliers lie so far from 1 that it answers otherwise than the base."""
    assert isinstance(generator.adapter, SVF)
    values = generator.adapter.singular_values
    experts = {}
    for seed, domain in enumerate(domains):
        noise = torch.Generator().manual_seed(seed)
        scales = {module: 1.0 + 0.3 * torch.randn(len(s), generator=noise) for module, s in values.items()}
        experts[domain] = Expert(
            scales,
            ExpertMetadata(
                base_model=generator.lm.source,
                fingerprint=fingerprint_of(values),
                parametrization="direct",
                task=domain,
                domain=domain,
                description=f"questions about {domain}",
                objective="RLOO",
                step=1,
                t2_version="test",
            ),
        )
    return ExpertPool(experts)


def save_pool(folder: Path, domains: Sequence[str] = DOMAINS) -> Path:
    """The same as files in a folder."""
    folder.mkdir(parents=True)
    for domain, expert in tiny_pool(tiny_generator(), domains).experts.items():
        expert.save(folder / f"{domain}.safetensors")
    return folder
