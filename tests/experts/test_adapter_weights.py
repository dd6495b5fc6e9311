"""What a run with another adapter than SVF saves: it fits its own adapter and model, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_family import injected
from tiny_models import same_states, tiny
from tiny_pool import METADATA, make_expert

from t2.adapters.peft import PeftAdapter
from t2.experts.adapter_weights import AdapterWeights
from t2.experts.expert import Expert
from t2.experts.folder import read_expert
from t2.experts.trained import apply_trained, check_mixable, load_trained, origin, save_trained, trained
from t2.models.tiny import tiny_model

PROMPTS = frozenset({"a1", "b2"})


def saved(run: Path, name: str = "lora") -> AdapterWeights:
    lm, adapter = injected(name, spread=0.02)
    metadata = replace(METADATA, base_model=lm.source, domain="x", prompts=PROMPTS, val_after=0.5, **origin(adapter))
    one = trained(adapter, metadata)
    assert isinstance(one, AdapterWeights)
    save_trained(one, adapter, run)
    return one


def test_it_is_read_as_it_was_saved(tmp_path: Path) -> None:
    one = saved(tmp_path)
    for path in (tmp_path, tmp_path / "adapter.safetensors"):
        again = load_trained(path, injected("lora")[1])
        assert isinstance(again, AdapterWeights)
        assert again.metadata == one.metadata
        assert same_states(again.state, one.state)
    assert one.parameter_count == sum(p.numel() for p in injected("lora")[1].trainable())
    first = (tmp_path / "adapter.safetensors").read_bytes()
    one.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == first


def test_another_adapter_or_other_settings_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    for adapter, message in (
        (PeftAdapter("ia3", modules=["k_proj"]), "The file is of adapter=lora, and adapter=ia3 is set"),
        (PeftAdapter("lora", {"r": 2, "lora_alpha": 16}),
         "adapter.settings.r is 2 here and 4 in the file; adapter.settings.lora_alpha is 16 here and the default in"),
        (PeftAdapter("lora", {"r": 4, "lora_alpha": 8}, layers=[0]), r"adapter.layers is \[0\] here and the def"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_trained(tmp_path, adapter)


def test_a_setting_that_was_typed_is_named_though_it_is_the_default(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"adapter\.settings\.r is 8 here and 4 in the file"):
        load_trained(tmp_path, PeftAdapter("lora", {"r": 8}))


def test_settings_at_their_defaults_are_no_difference(tmp_path: Path) -> None:
    saved(tmp_path)
    load_trained(tmp_path, PeftAdapter("lora", {"lora_alpha": 8, "r": 4, "use_dora": False}, seed=9))


def test_another_model_is_refused_unless_transferred(tmp_path: Path) -> None:
    one = saved(tmp_path)
    lm, adapter = injected("lora", tiny_model(seed=1))
    with pytest.raises(ValueError, match="Their weights differ"):
        apply_trained(adapter, one, source=lm.source)
    apply_trained(adapter, one, source=lm.source, transfer=True)
    assert same_states(adapter.state(), one.state)
    with pytest.raises(ValueError, match="was trained for tiny:llama; the loaded model is org/other"):
        apply_trained(injected("lora", tiny())[1], one, source="org/other")


def test_svf_and_others_are_not_taken_for_each_other(tmp_path: Path) -> None:
    saved(tmp_path / "lora")
    make_expert(1).save(tmp_path / "svf" / "expert.safetensors")
    (_, svf), (_, lora) = injected("svf"), injected("lora")
    for path, adapter, message in (
        (tmp_path / "svf", lora, "an SVF expert. Set adapter=svf"),
        (tmp_path / "svf" / "expert.safetensors", lora, "is an SVF expert. Set adapter=svf"),
        (tmp_path / "lora" / "adapter.safetensors", svf, "holds what adapter=lora learned"),
    ):
        with pytest.raises(ValueError, match=message):
            load_trained(path, adapter)
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors, of another adapter than SVF"):
        load_trained(tmp_path / "lora", svf)
    with pytest.raises(FileNotFoundError, match=r"'math': .* of another adapter than SVF"):
        read_expert("math", tmp_path / "lora")
    with pytest.raises(FileNotFoundError, match="a training run that has validated"):
        load_trained(tmp_path, lora)


def test_numbers_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    one = saved(tmp_path)
    name = next(iter(one.state))
    bad = AdapterWeights({**one.state, name: one.state[name] * torch.nan}, one.metadata)
    with pytest.raises(ValueError, match="The training diverged"):
        bad.save(tmp_path / "bad.safetensors")


def test_what_mixes_experts_needs_multipliers() -> None:
    check_mixable(injected("svf")[1], ["experts="])
    check_mixable(injected("lora")[1], [])
    with pytest.raises(ValueError, match=r"adapter=steering has no multipliers z .* experts= and strategy= would do"):
        check_mixable(injected("steering")[1], ["strategy=", "experts="])


@pytest.mark.parametrize("learned", ["spectrum=top rank=2", None])
def test_an_experts_count_is_of_what_was_learned(learned: str | None) -> None:
    expert = make_expert(1, learned=learned)  # of 4, 6 and 3 singular values
    assert isinstance(expert, Expert)
    assert expert.parameter_count == (13 if learned is None else 6)
