"""Experts of models with mixtures of experts: trained, kept, mixed, exported, and refused where they do not fit."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo_models
from tiny_models import IDS, adapt, logits, random_state, same_states
from tiny_pool import METADATA
from training_run import fit, flat, make_module
from transformers import AutoModelForCausalLM
from zoo_models import tiny_architecture

from t2.experts.expert import EXPERT_FILE, Expert, ExpertMetadata, apply_expert
from t2.experts.export_hf import export_hf
from t2.experts.fingerprint import adapter_fingerprint
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.experts.trained import origin
from t2.models.language_model import LanguageModel

original = functools.cache(tiny_architecture)


def mixture(architecture: str = "qwen3_moe") -> LanguageModel:
    return copy.deepcopy(original(architecture))


def test_a_run_of_rl_keeps_an_expert_that_another_process_can_apply(tmp_path: Path) -> None:
    module = make_module(lm=mixture(), lr=1e-2)
    before = flat(module)
    fit(module, tmp_path, steps=2)
    assert not torch.equal(flat(module), before)
    expert = Expert.load(tmp_path / EXPERT_FILE)
    assert expert.metadata.coverage == "98.6 %; left: mlp.gate.weight (router) 1.4 %"
    assert "model.layers.1.mlp.experts.down_proj[3]" in expert.scales
    assert expert.parameter_count == sum(number.numel() for number in module.adapter.trainable())
    svf = adapt(mixture())
    apply_expert(svf, expert, source=expert.metadata.base_model)
    assert same_states(svf.state(), dict(expert.scales))


def test_an_expert_of_another_number_of_experts_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    svf = adapt(mixture())
    expert = Expert(random_state(svf), replace(METADATA, **origin(svf)))
    monkeypatch.setitem(zoo_models.OVERRIDES, "qwen3_moe", {"num_local_experts": 3, "num_experts": 3})
    fewer = adapt(tiny_architecture("qwen3_moe"))
    with pytest.raises(ValueError, match=r"4 of the expert's 24 modules .*mlp.experts.gate_up_proj\[3\] for one"):
        apply_expert(fewer, expert, source=METADATA.base_model, transfer=True)


def test_a_mixture_is_the_mean_of_its_experts_matrix_by_matrix() -> None:
    lm = mixture("gpt_oss")
    svf = adapt(lm)
    about = {**vars(METADATA), **origin(svf), "base_model": lm.source}
    kinds = {
        name: Expert(random_state(svf, seed), ExpertMetadata(**about | {"domain": name}))
        for seed, name in enumerate(("a", "b"))
    }
    pool = ExpertPool(kinds)
    pool.check(svf, source=lm.source)
    mixed = pool.state(Mixture.of(0.5, 0.5))
    name = "model.layers.0.mlp.experts.gate_up_proj[2]"
    torch.testing.assert_close(mixed[name], (kinds["a"].scales[name] + kinds["b"].scales[name]) / 2)
    svf.load(mixed)
    assert adapter_fingerprint(svf) == about["fingerprint"]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_plain_transformers_loads_an_exported_mixture(architecture: str, tmp_path: Path) -> None:
    """Its file names experts one by one, or not, as the class of the model has it."""
    lm = mixture(architecture)
    svf = adapt(lm, spread=0.1)
    active = logits(lm)
    export_hf(lm, svf, svf.state(), tmp_path / "out", applied={})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, active, rtol=0, atol=2e-4)
