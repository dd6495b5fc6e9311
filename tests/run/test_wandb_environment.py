"""What W&B's environment variables say holds, unless the command line says otherwise."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from t2.run.wandb_environment import settle_wandb


@pytest.fixture(autouse=True)
def _none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODE", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


def settled(*words: str, **loggers: object) -> object:
    cfg = OmegaConf.create({"logger": loggers or {"wandb": {"project": "t2", "entity": None, "offline": True}}})
    OmegaConf.set_struct(cfg, True)  # as Hydra's is
    settle_wandb(cfg, words)
    return OmegaConf.to_container(cfg.logger)


def test_without_variables_nothing_changes() -> None:
    assert settled() == {"wandb": {"project": "t2", "entity": None, "offline": True}}


def test_variables_hold_where_the_command_line_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODE": "online", "PROJECT": "p", "ENTITY": "team"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert settled() == {"wandb": {"project": "p", "entity": "team", "offline": False}}
    typed = ("logger.wandb.project=t2", "+logger.wandb.entity=null", "logger.wandb.offline=true")
    assert settled(*typed) == {"wandb": {"project": "t2", "entity": None, "offline": True}}


def test_disabled_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert settled() == {}
    assert settled(csv={"name": "x"}) == {"csv": {"name": "x"}}
    assert "wandb" in settled("logger.wandb.offline=true")  # type: ignore[operator]


def test_what_lightning_sets_for_an_offline_run_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert settled(wandb={"offline": False}) == {"wandb": {"offline": False}}


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ValueError, match="WANDB_MODE is 'of'"):
        settled()
