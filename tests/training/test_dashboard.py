"""What a training run tells W&B beside its numbers; tests/scripts/test_wandb.py reads what the scripts logged."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from training_run import fit, make_module
from wandb_offline import read_runs

from t2.run.tracking import tracked
from t2.training.dashboard import Dashboard
from t2.training.objectives import Reinforce
from t2.training.rollout import Loss


class NeverFinite(Reinforce):
    """Its loss is NaN."""

    def loss(self, token, rollout) -> Loss:
        loss = super().loss(token, rollout)
        return Loss(loss.total * float("nan"), loss.parts)


def test_it_alerts_of_a_step_that_is_not_finite(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    with tracked([logger], {}), pytest.raises(FloatingPointError):
        fit(make_module(objective=NeverFinite()), tmp_path, callbacks=[Dashboard()], logger=[logger])
    (run,) = read_runs(tmp_path)
    assert run.alerts == ["Not finite"]
