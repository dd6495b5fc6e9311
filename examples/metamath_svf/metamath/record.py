"""The JSON file of a run, with the keys of PEFT's results (`log_results` of its runner), so that both are read alike.

What is t2's own stands where PEFT has what depends on the method: in `peft_config`. `peft_branch` names t2's commit,
since no checkout of PEFT computes anything here. A run that fails writes nothing.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from httpx import HTTPError
from huggingface_hub import HfApi

import t2
from metamath.data import GSM8K, METAMATH
from metamath.settings import Experiment
from metamath.training import Run, mean
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.trained import origin, why_not_kept
from t2.models.sources import resolve
from t2.run.files import atomic_path
from t2.run.results import own_commit

log = logging.getLogger(__name__)
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")


def save_expert(run: Run, path: Path) -> tuple[int | None, str]:
    """Write the expert to `path`; returns the bytes of the file, and why there is none ("" where there is one)."""
    metadata = ExpertMetadata(
        base_model=run.lm.source,
        task="metamathqa",
        domain="math",
        description="an expert for grade-school word problems",
        objective="SFT on whole texts",
        step=run.config.max_steps,
        t2_version=t2.__version__,
        git_commit=own_commit(),
        **origin(run.svf),
    )
    expert = Expert(run.svf.state(), metadata)
    if problem := why_not_kept(expert):
        log.error("No expert is saved: %s", problem)
        return None, problem
    return expert.save(path).stat().st_size, ""


@dataclass(frozen=True)
class Finished:
    """A run that ended: what was wanted and measured, its file (`save_expert`) and its seconds.

    `svd_seconds` are those of the decompositions, `total_seconds` of everything; `created_at` is ISO 8601.
    """

    experiment: Experiment
    run: Run
    created_at: str
    svd_seconds: float
    total_seconds: float
    saved: tuple[int | None, str]
    from_hub: bool  # whether the data is

    def record(self) -> dict[str, Any]:
        """All of it, in PEFT's keys."""
        return {"run_info": self._run_info(), "train_info": self._train_info(), "meta_info": self._meta_info()}

    def _run_info(self) -> dict[str, Any]:
        commit = own_commit()
        return {
            "created_at": self.created_at,
            "total_time": self.total_seconds,
            "experiment_name": self.experiment.name,
            "peft_branch": f"t2 {commit or t2.__version__}",
            "peft_worktree_is_dirty": None if commit is None else commit.endswith("+changes"),
            "train_config": asdict(self.experiment.train),
            "peft_config": {
                "peft_type": "SVF",
                "base_model_name_or_path": self.run.lm.source,
                **self.experiment.adapter,
                "learned": str(self.run.svf.spectrum),
                "t2_version": t2.__version__,
                "decomposition_seconds": self.svd_seconds,
            },
            "error_msg": self.saved[1],
        }

    def _train_info(self) -> dict[str, Any]:
        memory, learned = self.run.memory, sum(one.numel() for one in self.run.svf.trainable())
        average = mean(memory.reserved)
        return {
            "accelerator_memory_reserved_avg": None if average is None else int(average),
            "accelerator_memory_max": memory.peak,
            "accelerator_memory_reserved_99th": int(np.percentile(memory.reserved, 99)) if memory.reserved else None,
            "train_time": self.run.train_seconds,
            "file_size": self.saved[0],
            "num_trainable_params": learned,
            "num_total_params": base_numbers(self.run) + learned,
            "status": "success",
            "metrics": self.run.metrics,
        }

    def _meta_info(self) -> dict[str, Any]:
        hub, source = HfApi(), self.run.lm.source
        return {
            "model_info": hub_info(hub.model_info, source, resolve(source).kind == "hub"),
            "dataset_info": {
                "metamath": hub_info(hub.dataset_info, METAMATH, self.from_hub),
                "gsm8k": hub_info(hub.dataset_info, GSM8K, self.from_hub),
            },
            "package_info": package_info(),
            "system_info": system_info(self.run.lm.device),
            "pytorch_info": torch.__config__.show(),
        }


def base_numbers(run: Run) -> int:
    """How many numbers the base model has: its parameters without those of SVF, tied ones once."""
    own = {id(one) for one in run.svf.trainable()}
    return sum(one.numel() for one in run.lm.model.parameters() if id(one) not in own)


def hub_info(ask: Callable[[str], Any], name: str, is_there: bool) -> dict[str, str | None]:
    """The commit and the date of a repository on the hub; null, and a warning, where the hub does not tell."""
    if is_there:
        try:
            found = ask(name.partition("@")[0])
            return {"sha": found.sha, "created_at": found.created_at.isoformat()}
        except (OSError, HTTPError) as error:
            log.warning("The hub tells nothing of %s: %s", name, error)
    return {"sha": None, "created_at": None}


def package_info() -> dict[str, str | None]:
    """Versions; null for what is not installed, and commits are null, since all are installed packages."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[f"{name}-version"] = version(name)
        except PackageNotFoundError:
            found[f"{name}-version"] = None
        found[f"{name}-commit-hash"] = None
    return found


def system_info(device: torch.device) -> dict[str, str]:
    """The machine."""
    names = ("system", "release", "version", "machine", "processor")
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {**{name: getattr(platform, name)() for name in names}, "accelerator": accelerator}


def save_record(content: dict[str, Any], folder: Path) -> Path:
    """Write `METHOD--NAME.json`, as PEFT's results are called, and return its path."""
    path = folder / f"{content['run_info']['experiment_name'].replace('/', '--')}.json"
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False))
    return path
