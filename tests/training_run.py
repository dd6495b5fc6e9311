"""A training run of the tiny model on letters, of a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from adapter_family import injected
from conftest import LetterTask
from tiny_models import adapt, tiny
from tiny_pool import METADATA

from t2.experts.trained import origin
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.run.metrics_csv import MetricsCSV
from t2.training.callbacks import Checkpoints, Validation
from t2.training.data import PromptData
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO, Objective
from t2.training.optimizer import OptimizerSettings
from t2.types import Sampling

STEPS = 6

PART = {"spectrum": "random", "rank": 4, "groups": 2, "tie": "layers"}
each_adapter = pytest.mark.parametrize("settings", [{}, {"parametrization": "sigmoid_nuclear"}, PART], ids=str)


def make_module(
    *,
    task: LetterTask | None = None,
    objective: Objective | None = None,
    micro_batch_tokens: int = 4096,
    architecture: str = "llama",
    modules: str = "all",
    lr: float = 2e-3,
    total_steps: int = STEPS,
    parametrization: str = "direct",
    lm: LanguageModel | None = None,
    name: str | None = None,
    **settings: Any,
) -> ExpertTraining:
    """A run of a tiny model of the architecture, or of `lm`; further `settings` are SVF's.

    `name` is that of another adapter (`adapter_family`).
    """
    lm = lm or tiny(architecture)
    if name is None:
        adapter: Any = adapt(lm, modules=modules, parametrization=parametrization, **settings)
    else:
        _, adapter = injected(name, lm)
    return ExpertTraining(
        lm=lm,
        adapter=adapter,
        task=task or LetterTask(),
        objective=objective or RLOO(),
        generator=HFGenerator(lm, adapter),
        metadata=replace(
            METADATA,
            base_model=lm.source,
            task="letters",
            domain="letters",
            step=0,
            **origin(adapter),
        ),
        sampling=Sampling(max_new_tokens=6, temperature=1.0, samples=4),
        optimizer=OptimizerSettings(lr=lr, warmup_steps=1),
        total_steps=total_steps,
        micro_batch_tokens=micro_batch_tokens,
        kl_every=3,
        seed=7,
    )


def fit(
    module: ExpertTraining,
    folder: Path,
    *,
    steps: int = STEPS,
    prompts: int = 3,
    ckpt: Path | None = None,
    **options: object,
) -> L.Trainer:
    """Train for some steps and return the trainer; `options` are further ones of it."""
    data = PromptData(module.task, prompts_per_step=prompts, steps=max(steps, STEPS), seed=7)
    settings = {
        "callbacks": [Validation(every=2), Checkpoints()],
        "logger": MetricsCSV(str(folder)),
        "max_steps": steps,
        "devices": 1,
        "enable_checkpointing": False,
    } | options
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        default_root_dir=folder,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return trainer


def flat(module: ExpertTraining) -> torch.Tensor:
    """All numbers of the adapter's state in one vector."""
    return torch.cat([value.flatten() for value in module.adapter.state().values()])
