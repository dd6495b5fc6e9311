"""estimate.py as a user runs it: train.py's command lines, what fits, what to change, bad input; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from transformers import LlamaConfig

import t2.cli.estimate as command

Run = Callable[..., str]


@pytest.fixture
def estimate(run_script: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> Run:
    """Run estimate.py in an empty folder, which stays empty; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        run_script("estimate", *words)
        assert not [*tmp_path.iterdir()]
        return capsys.readouterr().out

    return run


def test_a_training_command_line_fits_or_says_what_to_change(estimate: Run) -> None:
    words = ("base_model=llama3_8b", "task=gsm8k", "hydra.run.dir=run", "hydra/launcher=slurm", "seed=0,1", "-m")
    fits = estimate(*words, "gpu=h100")
    assert "8.03 billion numbers in bfloat16" in fits
    assert "It fits: 43.89 of 80 GB" in fits
    assert f"lie in {Path.cwd() / 'cache'} (T2_CACHE)" in fits
    assert "What is typed" not in fits
    small = estimate(*words, "gpu=RTX 4090")
    assert "It does not fit: 43.89 of 24 GB" in small
    thin, thinner = [line for line in small.splitlines() if "adapter.rank=16 recompute_activations=true" in line]
    assert not thin.endswith("fits")  # 64 completions of a validation at once have a prompt each
    assert thinner.endswith("fits")
    assert "trainer=fsdp trainer.devices=8" in small


def test_without_a_gpu_the_table_is_shown(estimate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.cli.estimate_parts.gpu_at_hand", lambda: None)
    shown = estimate("base_model=llama3_70b", "devices=8")
    assert "8 GPUs (balanced)" in shown
    rows = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert "fits" in rows["H100 SXM"]
    assert "no" in rows["T4"]


def test_advice_is_what_the_same_words_give(estimate: Run) -> None:
    base = ("base_model=llama3_8b", "gpu=l4")
    for line in estimate(*base).splitlines():
        if line.startswith(("adapter.modules=mlp ", "adapter.layers=0.5 ")):
            word, gigabytes = line.split()[:2]
            assert f" {gigabytes} of 24 GB" in estimate(*base, word)
            break
    else:
        pytest.fail("no advice")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gpu=h1000",), "Did you mean"),
        (("devices=4",), "add trainer=ddp"),
        (("adapter=lora",), "estimated is SVF"),
        (("generation.dtype=auto",), "decided where a run is"),
        (("resume=run",), "without resume"),
        (("adapter.modules=nothing",), "matches no matrix"),
        (("adapter.spectrum=top", "adapter.rank=9999"), "adapter.rank is 9999"),
        (("base_model.source=./nothing", "base_model.sha256=null"), "No file or folder"),
        (("--steps=7",), "--steps=7 is no flag; write steps=7"),
        (("experiment=paper/table2",), "is one of evaluate.py, and this is estimate.py"),
        (("prompt_token=5",), "Did you mean 'prompt_tokens'"),
    ],
)
def test_bad_input_is_one_sentence(estimate: Run, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        estimate(*words)


def test_a_checkpoint_that_is_quantized_already_is_not_taken_for_dense(estimate: Run, tmp_path: Path) -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match=r"quantized \(gptq\), which is not estimated. Take the source of the dense"):
        estimate("base_model=any", f"base_model.source={tmp_path}")


def test_what_a_gpu_lacks_is_said(estimate: Run) -> None:
    shown = estimate("base_model=mistral_7b", "gpu=t4")
    assert "T4 has no bfloat16: set base_model.dtype=float16." in shown
    assert "add base_model.device=cuda" in estimate("gpu=t4")


def test_every_change_is_one_that_train_takes() -> None:
    from t2.run.launch_overrides import check_overrides

    for words in command.CHANGES:
        check_overrides(ROOT / "conf", "train", words.split())
