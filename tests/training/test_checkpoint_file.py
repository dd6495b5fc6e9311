"""Checkpoint files: a whole one at each instant, damage found, the previous one taken up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from training_run import fit, flat, make_module

from t2.training.callbacks import Checkpoints, Validation, finish
from t2.training.checkpoint_file import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, DurableCheckpoints, read_checkpoint

CHECKPOINT = {
    **dict.fromkeys(("t2", "state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers")),
    "global_step": 0,
}


def step_of(path: Path) -> int:
    return int(read_checkpoint(path)["global_step"])


def test_at_each_instant_the_last_checkpoint_is_whole_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, files = tmp_path / LAST_CHECKPOINT, DurableCheckpoints()
    files.save_checkpoint(CHECKPOINT | {"global_step": 1}, last)
    seen: list[int] = []
    for name in ("replace", "link", "fsync", "unlink"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, call=call: (seen.append(step_of(last)), call(*args))[1])
    files.save_checkpoint(CHECKPOINT | {"global_step": 2}, last)
    monkeypatch.undo()
    assert set(seen) == {1, 2}
    assert seen == sorted(seen)
    assert (step_of(last), step_of(tmp_path / PREVIOUS_CHECKPOINT)) == (2, 1)
    assert {path.name for path in last.parent.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_without_hard_links_the_previous_one_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2):
        DurableCheckpoints().save_checkpoint(CHECKPOINT | {"global_step": step}, tmp_path / LAST_CHECKPOINT)
    assert step_of(tmp_path / PREVIOUS_CHECKPOINT) == 1


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    middle = len(whole) // 2
    if how == "gone":
        path.unlink()
    elif how == "pickle":
        torch.save({"state_dict": Path}, path)
    elif how == "other":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(
            {
                "cut": whole[:middle],
                "empty": b"",
                "zeroed": bytes(len(whole)),
                "zeroed tail": whole[:middle] + bytes(len(whole) - middle),
                "one bit of a number": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
                "text": b"hello",
            }[how]
        )


@pytest.mark.parametrize(
    "how", ["gone", "cut", "empty", "zeroed", "zeroed tail", "one bit of a number", "text", "pickle", "other"]
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_taken(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    last, files = tmp_path / LAST_CHECKPOINT, DurableCheckpoints()
    for step in (1, 2):
        files.save_checkpoint(CHECKPOINT | {"global_step": step, "state_dict": {"z": torch.randn(999)}}, last)
    damage(last, how)
    assert files.load_checkpoint(last, weights_only=True)["global_step"] == 1
    assert "last.ckpt" in caplog.text
    assert "previous.ckpt, at step 1" in caplog.text
    files.save_checkpoint(CHECKPOINT | {"global_step": 2}, last)
    assert step_of(tmp_path / PREVIOUS_CHECKPOINT) == 1, "the damaged one was kept as the previous"
    damage(last, "cut")
    damage(tmp_path / PREVIOUS_CHECKPOINT, "cut")
    with pytest.raises(ValueError, match=r"cannot go on: .*last\.ckpt is damaged.*previous\.ckpt is damaged"):
        files.load_checkpoint(last, weights_only=True)


def test_going_on_from_the_previous_checkpoint_ends_at_the_same_numbers(tmp_path: Path) -> None:
    whole, parts, resumed = make_module(), make_module(), make_module()
    fit(whole, tmp_path / "whole", steps=4)
    fit(parts, tmp_path / "parts", steps=3)
    damage(tmp_path / "parts" / LAST_CHECKPOINT, "zeroed tail")
    fit(resumed, tmp_path / "parts", steps=4, ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(resumed), flat(whole))


def test_a_run_killed_in_its_last_validation_has_it_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning runs no hook where the last step is done already."""
    monkeypatch.setattr(Validation, "on_train_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        fit(make_module(), tmp_path, steps=3)
    monkeypatch.undo()
    validation, module = Validation(every=2), make_module()
    trainer = fit(module, tmp_path, steps=3, ckpt=tmp_path / LAST_CHECKPOINT, callbacks=[validation, Checkpoints()])
    assert 3 not in validation.reports
    finish(trainer, module)
    assert 3 in validation.reports
    ends: list[int] = []
    monkeypatch.setattr(Checkpoints, "on_train_end", lambda *_: ends.append(1))
    finish(trainer, module)
    assert ends == [], "what has ended was ended again"
