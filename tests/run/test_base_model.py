"""The checksum of a YAML is that of its own source, and a dtype `auto` is decided by where the model is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf

from t2.cli.compose import composed
from t2.run.base_model import settle_base_model, tell_source, words_for_source
from t2.run.launch_overrides import composed as of_words

CONF = ROOT / "conf"
OTHER = "0" * 64


def test_a_source_on_the_command_line_has_no_checksum_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_words(CONF, "train", []).base_model.sha256 is not None
    assert of_words(CONF, "train", ["base_model.source=org/name"]).base_model.sha256 is None
    assert composed("adapt", {"base_model.source": "org/name"}).base_model.sha256 is None
    given = [f"base_model.sha256={OTHER}", "base_model.source=a.gguf"]
    assert of_words(CONF, "train", given).base_model.sha256 == OTHER
    assert "sha256" not in of_words(CONF, "train", ["base_model=tiny"]).base_model


@pytest.mark.parametrize(
    ("words", "gpu", "half", "dtype"),
    [
        ((), False, True, "float32"),
        ((), True, True, "bfloat16"),
        ((), True, False, "float16"),
        (("base_model.device=cpu",), True, True, "float32"),
        (("base_model.dtype=float32",), True, True, "float32"),
        (("gpu=h100",), False, True, "bfloat16"),
    ],
)
def test_any_model_has_the_dtype_that_suits_where_it_is(words, gpu, half, dtype, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: half)
    script = "estimate" if words == ("gpu=h100",) else "evaluate"
    cfg = of_words(CONF, script, ["base_model=any", "base_model.source=org/name", *words])
    assert (cfg.base_model.dtype, cfg.base_model.sha256) == (dtype, None)


def test_a_cpu_beside_a_gpu_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    caplog.set_level(logging.INFO)
    for words in (["base_model.source=org/name"], ["base_model.source=org/name", "base_model.device=cpu"]):
        tell_source(of_words(CONF, "train", words), words)
    assert caplog.text.count("base_model=any base_model.source=org/name") == 1
    assert "checksum" not in caplog.text
    words = ["base_model.source=pypi:a/b.gguf", "base_model.device=auto"]
    tell_source(of_words(CONF, "train", words), words)
    assert "base_model.source=pypi:a/b.gguf is not compared with a checksum" in caplog.text


def test_other_models_are_left_alone() -> None:
    cfg = OmegaConf.create({"base_model": {"_target_": "own.model"}})
    settle_base_model(cfg, ["base_model.source=x"])
    tell_source(cfg, [])
    assert cfg == {"base_model": {"_target_": "own.model"}}


def test_a_run_of_a_source_alone_reaches_the_model(run_script, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_script("adapt", f"base_model.source={tmp_path}", "expert=shipped:experts/smollm2_135m/sums.safetensors",
                   "transfer=true", "prompt=hi", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert "has no config.json" in capsys.readouterr().out
    saved = OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml")
    assert saved.base_model.sha256 is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Qwen/Qwen3-4B", "base_model=qwen3_4b"),  # whose YAML switches thinking off
        ("org/mine", "base_model=any base_model.source=org/mine"),
        ("/a b/c", "base_model=any 'base_model.source=/a b/c'"),
        ("tiny:llama", "base_model=tiny"),
        ("tiny:llava-llama", "base_model=tiny_llava"),
    ],
)
def test_a_source_is_chosen_by_its_yaml_where_there_is_one(source: str, words: str) -> None:
    assert words_for_source(source) == words


def test_any_model_without_a_source_is_asked_for(run_script, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_script("evaluate", "base_model=any", f"hydra.run.dir={tmp_path / 'run'}")
    assert "Add base_model.source=VALUE" in capsys.readouterr().out
