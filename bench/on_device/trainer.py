"""Two steps of the Lightning module on the device, then a resumed run: the path that train.py takes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from on_device.build import Bench, inject
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.tasks.form import IN_PROMPT
from t2.types import Example, Sampling

NEEDS = ("pydantic", "lightning")  # what the module imports beyond the other parts


@dataclass
class Letters:
    """The share of lower-case letters, a reward that a random model has some of."""

    name: str = "letters"
    max_new_tokens: int = 6
    form = IN_PROMPT

    def split(self, split: str) -> Sequence[Example]:
        """The same few prompts for each split."""
        return [Example(f"{split} {n}", answer="a") for n in range(8)]

    def score(self, example: Example, text: str) -> float:
        """In [0, 1]."""
        return sum("a" <= letter <= "z" for letter in text) / max(1, len(text))

    def chance(self, example: Example) -> Mapping[str, float]:
        """No guess has one."""
        return {}


def trainer(bench: Bench) -> list[dict[str, Any]]:
    """Whether z of a resumed run equals that of a whole one, or what is missing here."""
    for name in NEEDS:
        if find_spec(name) is None:
            return [{"trainer": f"not measured: {name} is not installed"}]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = []
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as folder:
            whole, _ = _fit(bench, dtype, Path(folder) / "whole", steps=4)
            _, checkpoint = _fit(bench, dtype, Path(folder) / "parts", steps=2)
            parts, _ = _fit(bench, dtype, Path(folder) / "parts", steps=4, checkpoint=checkpoint)
        same = torch.equal(whole, parts)
        rows.append(
            {"trainer": dtype, "moved": float((whole - 1).abs().max()), "same when resumed": str(same), "ok": same}
        )
    return rows


def _fit(
    bench: Bench, dtype: str, folder: Path, *, steps: int, checkpoint: Path | None = None
) -> tuple[torch.Tensor, Path]:
    """All z after `steps` steps, and the checkpoint."""
    import lightning as L

    from t2.experts.expert import ExpertMetadata
    from t2.experts.fingerprint import fingerprint_of
    from t2.training.data import PromptData
    from t2.training.device import trainer_placement
    from t2.training.module import ExpertTraining
    from t2.training.objectives import RLOO
    from t2.training.optimizer import OptimizerSettings

    lm = tiny_model(dtype=dtype, device=str(bench.device))
    svf, task = inject(lm, random_factors=False), Letters()
    objective: Any = RLOO()
    metadata = ExpertMetadata(
        base_model=lm.source, fingerprint=fingerprint_of(svf.singular_values), parametrization="direct",
        task=task.name, domain=task.name, description="", objective="RLOO", step=0, t2_version="bench",
    )  # fmt: skip
    module = ExpertTraining(
        lm=lm, adapter=svf, task=task, objective=objective, generator=HFGenerator(lm, svf), metadata=metadata,
        sampling=Sampling(max_new_tokens=6, temperature=1.0, samples=4), optimizer=OptimizerSettings(), total_steps=4,
    )  # fmt: skip
    fitted = L.Trainer(
        max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **trainer_placement(lm.device),
    )  # fmt: skip
    fitted.fit(module, PromptData(task, prompts_per_step=2, steps=4, seed=0), ckpt_path=checkpoint, weights_only=True)
    saved = folder / "last.ckpt"
    fitted.save_checkpoint(saved, weights_only=False)
    return torch.cat(list(svf.state().values())), saved
