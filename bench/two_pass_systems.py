"""What bench/two_pass.py measures with: a model, a pool of random experts, a strategy that has chosen already, prompts.

Nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from record import ROOT
from step_systems import load

import t2
from t2.adaptation.strategy import Choice, PooledModel
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.tasks.base import Task
from t2.types import Example

DOMAINS = ("arithmetic", "sorting", "spelling")


class Given:
    """A strategy that has chosen already."""

    name = "given"

    def __init__(self, mixtures: Sequence[Mixture]) -> None:
        """One mixture per example of every call."""
        self.mixtures = mixtures

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Nothing to learn."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """The mixtures."""
        return [Choice(mixture) for mixture in self.mixtures]


def build(model: str, batch_rows: int) -> tuple[HFGenerator, ExpertPool]:
    """The model with its adapter, and a pool of random experts."""
    lm = load(model, "float32", "cpu")
    lm.end_ids = frozenset()  # no answer ends before its last token
    svf = SVF(modules="all", cache=model != "tiny", progress=False)
    svf.inject(lm.model, lm.source)
    return HFGenerator(lm, svf, batch_rows=batch_rows), random_pool(lm, svf)


def random_pool(lm: LanguageModel, svf: SVF) -> ExpertPool:
    """An expert per domain, z = 1 + 0.01 N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    experts = {}
    for domain in DOMAINS:
        scales = {name: 1 + 0.01 * torch.randn(len(s), generator=generator) for name, s in svf.singular_values.items()}
        metadata = ExpertMetadata(
            base_model=lm.source,
            fingerprint=fingerprint_of(svf.singular_values),
            parametrization=svf.parametrization,
            task=domain,
            domain=domain,
            description=f"questions of {domain}",
            objective="none",
            step=0,
            t2_version=t2.__version__,
        )
        experts[domain] = Expert(scales, metadata)
    return ExpertPool(experts)


def prompts(task: str, count: int) -> list[Example]:
    """Questions of a procedural task, as many as asked for.

    Raises:
        ValueError: it has fewer.
    """
    built: Task = instantiate(OmegaConf.load(ROOT / "conf" / "task" / f"{task}.yaml"), train_size=count)
    examples = list(built.split("train"))
    if len(examples) != count:
        raise ValueError(f"{task} gave {len(examples)} prompts and {count} were asked for. Take another task.")
    return examples
