"""LoRA folders: plain PEFT computes the adapter's logits, and what a rank leaves out is as large as predicted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import IDS, adapted, logits, original, random_state, tiny
from torch import Tensor

from t2.adapters.svf import SVF
from t2.experts.export_lora import Truncated, export_lora, total_error, truncate
from t2.models.language_model import LanguageModel


def export(lm: LanguageModel, svf: SVF, state: dict[str, Tensor], folder: Path, rank: int | None) -> list[Truncated]:
    truncated = truncate(svf, state, rank)
    export_lora(lm, svf, state, folder, truncated=truncated, applied={})
    return truncated


def with_peft(architecture: str, folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    model = PeftModel.from_pretrained(tiny(architecture, dtype=dtype).model, folder)
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ["llama", "llama_bias", "gpt2"])
def test_full_rank_computes_the_merged_logits(architecture: str, tmp_path: Path) -> None:
    """Catches a lost sign of z - 1, s left out or squared, Conv1D transposed, and a scaling that is not 1."""
    lm, svf = adapted(architecture)
    state = random_state(svf)
    with svf.merged(state):
        expected = logits(lm)
    truncated = export(lm, svf, state, tmp_path / "out", None)
    assert (with_peft(architecture, tmp_path / "out") - expected).abs().max() < 1e-3
    assert total_error(truncated) == 0
    assert (expected - logits(original(architecture))).abs().max() > 0.1


def test_half_precision(tmp_path: Path) -> None:
    lm, svf = adapted("llama", dtype=torch.bfloat16)
    state = random_state(svf)
    with svf.merged(state):
        expected = logits(lm).float()
    export(lm, svf, state, tmp_path / "out", None)
    got = with_peft("llama", tmp_path / "out", torch.bfloat16).float()
    assert (got - expected).norm() < 0.02 * expected.norm() < 0.2 * (expected - logits(tiny("llama"))).norm()


@pytest.mark.parametrize("decomposition", ["auto", "full"])
def test_an_expert_of_a_partial_spectrum_is_a_lora_without_error(decomposition: str, tmp_path: Path) -> None:
    """Catches indices into all singular values where the factors are thin, and the columns that fill them up."""
    lm, svf = adapted("llama", spectrum="top", rank=4, decomposition=decomposition)
    state = {name: torch.where(svf.learnable()[name], z, 1.0) for name, z in random_state(svf, spread=0.5).items()}
    with svf.merged(state):
        expected = logits(lm)
    truncated = export(lm, svf, state, tmp_path / "out", 4)
    assert [one.relative_error for one in truncated] == [0.0] * 14
    assert {one.rank for one in truncated} == {4}
    assert (with_peft("llama", tmp_path / "out") - expected).abs().max() < 1e-4
    # A whole adapter, which has all factors, finds the same four.
    _, other = adapted("llama")
    assert total_error(truncate(other, state, 4)) == 0
    assert total_error(truncate(other, state, 3)) > 0.1


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_predicted_error_is_the_measured_one(architecture: str, tmp_path: Path) -> None:
    lm, svf = adapted(architecture)
    state = random_state(svf)
    truncated = export(lm, svf, state, tmp_path / "out", 5)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    base = original(architecture).model.state_dict()
    for one, (name, merged) in zip(truncated, svf.merged_weights(state), strict=True):
        change = merged - base[name]
        b, a = (tensors[f"base_model.model.{one.path}.lora_{which}.weight"] for which in "BA")
        product = b @ a if architecture == "llama" else (b @ a).T
        assert 0.1 < one.relative_error < 1
        assert float((change - product).norm() / change.norm()) == pytest.approx(one.relative_error, rel=0.01)
        assert torch.allclose(a.norm(dim=1), b.norm(dim=0), rtol=1e-3)  # of equal scale
        assert b.shape[1] == 5
    told = json.loads((tmp_path / "out" / "export.json").read_text())["lora"]
    assert told["relative_error"] == pytest.approx(total_error(truncated))
    assert told["matrices"][truncated[0].path] == {"rank": 5, "relative_error": truncated[0].relative_error}


def test_ranks_of_their_own_and_matrices_that_do_not_change(tmp_path: Path) -> None:
    """Catches a pattern of ranks without one of alphas, which would scale those matrices by r / rank."""
    lm, svf = adapted("llama")
    state = {name: torch.ones_like(z) for name, z in random_state(svf).items()}
    first, second, *_ = state
    state[first][[0, 3, 7]] = 2.0
    state[second][2] = 0.5
    with svf.merged(state):
        expected = logits(lm)
    export(lm, svf, copy.deepcopy(state), tmp_path / "out", 8)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 3)
    assert config["rank_pattern"] == config["alpha_pattern"] == {svf.paths[second]: 1}
    assert sorted(config["target_modules"]) == sorted([svf.paths[first], svf.paths[second]])
    assert (with_peft("llama", tmp_path / "out") - expected).abs().max() < 1e-4


def test_names_are_short_where_that_is_enough(tmp_path: Path) -> None:
    lm, svf = adapted("llama", modules="mlp")
    export(lm, svf, random_state(svf), tmp_path / "out", 2)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["down_proj", "gate_proj", "up_proj"]
    assert config["base_model_name_or_path"] == "tiny:llama"


@pytest.mark.parametrize("rank", [0, -1, 33])
def test_impossible_ranks_are_refused(rank: int) -> None:
    _, svf = adapted("llama")
    with pytest.raises(ValueError, match=rf"up to 32 singular.* is {rank}; allowed: at least 1 and at most 32"):
        truncate(svf, random_state(svf), rank)


def test_the_base_model_is_no_lora() -> None:
    _, svf = adapted("llama")
    with pytest.raises(ValueError, match="nothing to export: all multipliers are 1"):
        truncate(svf, svf.state(), None)


def test_a_thin_adapter_that_lacks_what_the_expert_changes_is_refused() -> None:
    _, svf = adapted("llama", spectrum="top", rank=4)
    with pytest.raises(ValueError, match=r"multiplier 4 is not 1.*adapter.spectrum=all"):
        truncate(svf, random_state(svf), 4)
