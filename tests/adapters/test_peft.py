"""PEFT's adapters: plain PEFT reads what is exported, and what would not be a fair rival is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapter_family import LORA, each_peft, injected, move
from peft import PeftModel
from tiny_models import IDS, logits, same_states, tiny
from zoo_models import tiny_architecture

from t2.adapters.peft import PeftAdapter
from t2.models.tiny import tiny_model


@each_peft
def test_plain_peft_loads_what_is_exported(name: str, tmp_path: Path) -> None:
    lm, adapter = injected(name, spread=0.05)
    adapter.export(tmp_path)
    plain = PeftModel.from_pretrained(tiny().model, tmp_path).eval()
    with torch.no_grad():
        found = plain(input_ids=IDS).logits
    torch.testing.assert_close(found, logits(lm), rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == lm.source


@pytest.mark.parametrize("layers", [2, 3])  # 14 and 21 matrices, whose names PEFT shortens
@pytest.mark.parametrize(
    ("method", "settings"),
    [*((one, {}) for one in ("lora", "ia3", "vera", "tinylora", "loha", "oft", "hra", "delora", "randlora")),
     ("ia3", {"feedforward_modules": ["up_proj", "down_proj"]}), ("ia3", {"feedforward_modules": []})],
)  # fmt: skip
def test_plain_peft_loads_every_method_at_its_defaults(
    method: str, settings: dict, layers: int, tmp_path: Path
) -> None:
    lm, adapter = tiny_model(layers=layers), PeftAdapter(method, settings)
    adapter.inject(lm.model, lm.source)
    move(adapter, 0.02)
    adapter.export(tmp_path)
    plain = PeftModel.from_pretrained(tiny_model(layers=layers).model, tmp_path).eval()
    with torch.no_grad():
        found = plain(input_ids=IDS).logits
    torch.testing.assert_close(found, logits(lm), rtol=0, atol=1e-6)


def test_the_seed_decides_the_start_and_leaves_torchs_own_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    _, one = injected("lora", seed=3)
    assert torch.equal(torch.rand(2), expected)
    assert same_states(one.state(), injected("lora", seed=3)[1].state())
    assert not same_states(one.state(), injected("lora", seed=4)[1].state())


def test_matrices_and_layers_are_chosen_as_those_of_svf() -> None:
    lm = tiny()
    adapter = PeftAdapter("lora", LORA, modules=["q_proj", "v_proj"], layers=[1])
    adapter.inject(lm.model, lm.source)
    assert (
        set(adapter.layers)
        == {f"model.layers.1.self_attn.{kind}_proj" for kind in "qv"}
        == set(adapter.frobenius_norms)
    )


def test_rounding_is_of_the_merged_weights_alone() -> None:
    lm, adapter = injected("lora", spread=0.05)
    active = logits(lm)
    with adapter.merged(dtype=torch.bfloat16):
        rounded = logits(lm)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - active).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("lorra", {}, "Did you mean 'lora'"),
        ("ln_tuning", {}, "adapter.method is 'ln_tuning'; allowed: "),
        ("lora", {"rank": 4}, "adapter.settings.rank is no setting of PEFT's LoraConfig; allowed: .*alora"),
        ("lora", {"target_modules": ["q_proj"]}, "set adapter.modules"),
        ("lora", {"lora_dropout": 0.1}, "without dropout"),
    ],
)
def test_settings_are_refused_before_a_model_is_loaded(method: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeftAdapter(method, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": False}, "does not begin at the base model"),
        ({"init_lora_weights": "pissa"}, "changes the base model's own weights"),
        ({"bias": "all"}, "trains .*bias"),
        ({"r": 0}, "PEFT refuses adapter.settings of lora|positive integer"),
    ],
)
def test_what_would_be_no_fair_rival_is_refused(settings: dict, message: str) -> None:
    lm = tiny("llama_bias")
    with pytest.raises(ValueError, match=message):
        PeftAdapter("lora", {"r": 4, **settings}).inject(lm.model, lm.source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_that_multiplies_by_a_weight_itself_has_the_merged_one_in_its_own_dtype(dtype: torch.dtype) -> None:
    lm = tiny_architecture("mamba")  # whose kernels on a GPU take x_proj.weight
    adapter = PeftAdapter("lora", {"r": 2}, modules=["in_proj", "x_proj"])
    adapter.inject(lm.model, lm.source)
    move(adapter, 0.02)
    with torch.no_grad(), adapter.merged():
        exact = logits(lm)
    with torch.no_grad(), adapter.merged(dtype=dtype):
        rounded = logits(lm)
        assert lm.model.get_submodule("backbone.layers.0.mixer.x_proj").weight.dtype == exact.dtype
    assert rounded.dtype == exact.dtype
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("method", ["lora", "vera", "ia3"])
@pytest.mark.parametrize("modules", ["all", ["dt_proj"]])
def test_a_linear_that_a_model_does_not_call_is_refused(method: str, modules: str | list[str]) -> None:
    """PEFT's layer has the base's weight: its numbers would get no gradient, and change what is merged alone."""
    lm = tiny_architecture("mamba")
    with pytest.raises(ValueError, match=r"MambaForCausalLM multiplies by the weight of .*\.dt_proj itself"):
        PeftAdapter(method, modules=modules).inject(lm.model, lm.source)


def test_matrices_that_peft_takes_for_stacked_experts_are_named() -> None:
    lm = tiny_architecture("glm4_moe")  # its shared expert has names of PEFT's table
    with pytest.raises(ValueError, match=r"10 of the 14 chosen matrices, not model\.layers\.0\.mlp\..*adapter=svf"):
        PeftAdapter("lora", {"r": 2}).inject(lm.model, lm.source)
    lm, adapter = tiny_architecture("glm4_moe"), PeftAdapter("lora", {"r": 2}, modules="attention")
    adapter.inject(lm.model, lm.source)
    assert len(adapter.layers) == 8
