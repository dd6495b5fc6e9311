"""Precision is checked before anything is loaded, and said in the log."""

from __future__ import annotations

import logging

import pytest
from hydra import compose, initialize_config_dir

from t2.cli import train_parts
from t2.run.places import CONF

pytestmark = pytest.mark.commands


@pytest.mark.parametrize("flag", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_a_flag_of_the_trainer_is_refused_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr("t2.models.tiny.tiny_model", None)  # a call would raise TypeError
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["base_model=tiny", f"trainer.precision={flag}"])
    with pytest.raises(ValueError, match=rf"trainer.precision is '{flag}'.*base_model.dtype=bfloat16 or float16"):
        train_parts.build(cfg)


def test_the_policy_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.models.tiny.tiny_model", None)  # what is after it does not matter here
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["base_model=tiny", "base_model.dtype=bfloat16", "paths.run=run"])
    with caplog.at_level(logging.INFO), pytest.raises(Exception, match="callable target"):
        train_parts.build(cfg)
    assert "Precision: model bfloat16; z and logits float32; rollouts factored in bfloat16" in caplog.text
