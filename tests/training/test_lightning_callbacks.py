"""Lightning's own callbacks act on the metrics of a run of t2, after each validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from training_run import fit, make_module

from t2.training.callbacks import Checkpoints, Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT, read_checkpoint
from t2.training.lightning_callbacks import has_checkpoint, serve_lightning


def test_early_stopping_and_model_checkpoint_act_after_each_validation(tmp_path: Path) -> None:
    validation = Validation(every=2)
    stop = EarlyStopping(monitor="val/score", mode="max", patience=1, min_delta=2.0)  # nothing improves by so much
    best = ModelCheckpoint(monitor="train/score", mode="max", save_top_k=-1)
    callbacks = serve_lightning([validation, stop, best, Checkpoints()], validation, run=tmp_path)
    assert has_checkpoint(callbacks)
    trainer = fit(make_module(), tmp_path, callbacks=callbacks, enable_checkpointing=True)
    assert (stop.wait_count, sorted(validation.reports)) == (1, [0, 2])
    assert trainer.global_step == 2
    saved = sorted(path.name for path in (tmp_path / "lightning").iterdir())
    assert saved == ["epoch=0-step=2.ckpt"]
    assert torch.isfinite(best.best_model_score)
    assert read_checkpoint(tmp_path / "lightning" / saved[0])["global_step"] == 2
    assert read_checkpoint(tmp_path / LAST_CHECKPOINT)["global_step"] == 2


def test_a_metric_of_the_latest_step_is_monitored_once_there_is_one(tmp_path: Path) -> None:
    for steps, ckpt, served in ((2, None, [2]), (4, tmp_path / LAST_CHECKPOINT, [4])):
        validation, stop = Validation(every=2), EarlyStopping(monitor="train/score", mode="max", patience=99)
        seen: list[int] = []
        stop._run_early_stopping_check = lambda trainer, seen=seen: seen.append(trainer.global_step)  # type: ignore[method-assign,misc]
        callbacks = serve_lightning([validation, stop, Checkpoints()], validation, run=tmp_path)
        fit(make_module(), tmp_path, steps=steps, ckpt=ckpt, callbacks=callbacks)
        assert seen == served


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    """A validation that was passed on before the kill is not passed on again."""

    def run(steps: int, ckpt: Path | None) -> EarlyStopping:
        validation = Validation(every=1)
        stop = EarlyStopping(monitor="val/score", mode="max", patience=99, min_delta=2.0)
        callbacks = serve_lightning([validation, stop, Checkpoints()], validation, run=tmp_path)
        fit(make_module(), tmp_path, steps=steps, ckpt=ckpt, callbacks=callbacks)
        return stop

    assert run(2, None).wait_count == 2
    assert run(4, tmp_path / LAST_CHECKPOINT).wait_count == 4


def test_the_end_of_the_epoch_is_refused_and_nothing_is_added_without_them(tmp_path: Path) -> None:
    validation = Validation()
    for callback in (
        EarlyStopping(monitor="val/score", check_on_train_epoch_end=True),
        ModelCheckpoint(save_on_train_epoch_end=True),
    ):
        with pytest.raises(ValueError, match="a run is one epoch"):
            serve_lightning([validation, callback], validation, run=tmp_path)
    assert serve_lightning([validation], validation, run=tmp_path) == [validation]
