"""Training with any adapter: a step moves it, stopping and going on changes nothing, and its file says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_family import each_adapter, injected
from peft import PeftModel
from tiny_models import IDS, logits, same_states, tiny
from training_run import fit, flat, make_module

from t2.experts.adapter_weights import AdapterWeights
from t2.experts.trained import apply_trained
from t2.run.metrics_file import read_metrics
from t2.training.checkpoint_file import LAST_CHECKPOINT


@each_adapter
def test_a_step_of_rloo_moves_it(tmp_path: Path, name: str) -> None:
    module = make_module(name=name)
    before = module.adapter.state()
    fit(module, tmp_path, steps=1, callbacks=[])
    assert not same_states(module.adapter.state(), before)
    logged = read_metrics(tmp_path / "metrics.csv")[0]
    assert float(logged["scales/max_change" if name.startswith("svf") else "adapter/change_norm"]) > 0


@pytest.mark.parametrize("name", ["lora", "vera", "steering"])
def test_resuming_ends_at_the_same_numbers(tmp_path: Path, name: str) -> None:
    whole = make_module(name=name)
    fit(whole, tmp_path / "whole", steps=4)
    fit(make_module(name=name), tmp_path / "parts", steps=2)
    second = make_module(name=name)
    torch.manual_seed(999)
    fit(second, tmp_path / "parts", steps=4, ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))
    one, other = (AdapterWeights.load(tmp_path / part) for part in ("whole", "parts"))
    assert one.metadata == other.metadata
    assert same_states(one.state, other.state)
    rows = [read_metrics(tmp_path / part / "metrics.csv")[3]["adapter/change_norm"] for part in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert float(rows[0]) > 0


def test_the_files_of_the_best_step_are_the_same_adapter(tmp_path: Path) -> None:
    module = make_module(name="lora", lr=1e-2)
    fit(module, tmp_path, steps=4)
    kept = AdapterWeights.load(tmp_path)
    assert kept.metadata.step > 0
    assert not (tmp_path / "expert.safetensors").exists()
    lm, adapter = injected("lora")
    apply_trained(adapter, kept, source=lm.source)
    plain = PeftModel.from_pretrained(tiny().model, tmp_path / "peft").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits, logits(lm), rtol=0, atol=1e-6)


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    fit(make_module(name="lora"), tmp_path, steps=1)
    with pytest.raises(ValueError, match="names or shapes differ"):
        fit(make_module(name="ia3"), tmp_path, ckpt=tmp_path / LAST_CHECKPOINT)
