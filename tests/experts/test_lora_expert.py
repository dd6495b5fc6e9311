"""LoRAs of PEFT in a pool: alone plain PEFT's logits, at α = 0 the base, beside SVF the sum of both changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_lora import save_lora
from tiny_models import IDS, adapted, logits, original, tiny
from tiny_pool import make_expert

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.experts.export_hf import merge_into_base
from t2.experts.lora_expert import CONFIG_FILE, WEIGHTS_FILE, LoraExpert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

Parts = tuple[LanguageModel, SVF, ExpertPool]


def with_peft(folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    lm = tiny(architecture, dtype=dtype)
    model = PeftModel.from_pretrained(lm.model, str(folder))
    with torch.no_grad():
        return model(input_ids=IDS).logits


def parts_of(folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32) -> Parts:
    """A model, its adapter, and a pool of an SVF expert and the LoRA of a folder."""
    lm, svf = adapted(architecture, dtype=dtype)
    expert = make_expert(1, svf.singular_values, spread=0.2, base_model=lm.source)
    pool = ExpertPool({"svf": expert, "lora": LoraExpert.load(folder, "lora")})
    pool.check(svf, source=lm.source)
    return lm, svf, pool


def in_mode(parts: Parts, mixture: Mixture, mode: str) -> torch.Tensor:
    lm, svf, pool = parts
    if mode == "merged":
        with svf.merged(pool.state(mixture)):
            return logits(lm)
    others = [Mixture.of(0.3, 0.9), mixture]
    with svf.per_example(pool.scales(others)) as select:
        select(torch.tensor([1] * len(IDS)))
        return logits(lm)


MODES = pytest.mark.parametrize("mode", ["merged", "per_example"])


@MODES
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 7}}),
        ("gpt2", {"fan_in_fan_out": True}),
    ],
)
def test_alone_it_is_plain_peft(mode, architecture, settings, tmp_path) -> None:
    folder = save_lora(tmp_path, architecture, **settings)
    got = in_mode(parts_of(folder, architecture), Mixture.of(0, 1), mode)
    wanted = with_peft(folder, architecture)
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)
    assert (wanted - logits(original(architecture))).abs().max() > 0.1


@MODES
def test_in_bfloat16_it_is_as_near_to_the_exact_logits_as_plain_peft(mode, tmp_path) -> None:
    folder = save_lora(tmp_path)
    exact = with_peft(folder)
    got = in_mode(parts_of(folder, dtype=torch.bfloat16), Mixture.of(0, 1), mode).float()
    theirs = with_peft(folder, dtype=torch.bfloat16).float()
    assert (got - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()


@MODES
def test_no_weight_is_the_base_and_half_of_both_is_the_sum_of_halves(mode, tmp_path) -> None:
    parts = parts_of(save_lora(tmp_path))
    lm, svf, pool = parts
    torch.testing.assert_close(in_mode(parts, Mixture.of(0, 0), mode), logits(original()), atol=1e-4, rtol=1e-4)
    before = {name: layer.base.weight.clone() for name, layer in svf.layers.items()}
    states = {key: pool.state(Mixture.of(*key)) for key in ((1, 0), (0, 1), (0.5, 0.25))}
    alone = {key: dict(svf.merged_weights(state)) for key, state in states.items()}
    for name, path in svf.paths.items():
        svf_change, lora_change, both = (alone[key][f"{path}.weight"] - before[name] for key in states)
        torch.testing.assert_close(both, 0.5 * svf_change + 0.25 * lora_change, atol=1e-5, rtol=1e-4)
    dense = {path: alone[0.5, 0.25][f"{path}.weight"] for path in svf.paths.values()}
    got = in_mode(parts, Mixture.of(0.5, 0.25), mode)
    for name, path in svf.paths.items():
        svf.layers[name].base.weight.data = dense[path]
    with svf.disabled():
        torch.testing.assert_close(got, logits(lm), atol=2e-4, rtol=1e-4)


def test_each_example_gets_its_own_weight_and_none_leaks_out(tmp_path) -> None:
    parts = parts_of(save_lora(tmp_path))
    lm, svf, pool = parts
    mixtures = [Mixture.of(0, 1), Mixture.of(1, 0), Mixture.of(0, -0.5), Mixture.of(0, 0), Mixture.of(1, 1)]
    with svf.per_example(pool.scales(mixtures)):
        got = logits(lm)
    for row, mixture in enumerate(mixtures):
        torch.testing.assert_close(got[row], in_mode(parts, mixture, "merged")[row], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits(lm), logits(original()), atol=1e-4, rtol=1e-4)  # its own z, and no LoRA


def test_per_matrix_weights_and_the_papers_rule(tmp_path) -> None:
    _, svf, pool = parts_of(save_lora(tmp_path))
    module = next(iter(pool.loras["lora"].changes))
    row = tuple(float(name == module) for name in pool.modules)
    changed = dict(svf.merged_weights(pool.state(Mixture(((0.0,) * len(row), row)))))
    base = {path: svf.layers[name].base.weight for name, path in svf.paths.items()}
    moved = [path for path, weight in base.items() if not torch.equal(changed[f"{path}.weight"], weight)]
    assert moved == [svf.paths[module]]
    paper = dict(svf.merged_weights(pool.state(Mixture.of(0, 0.5, rule="paper"))))
    full = dict(svf.merged_weights(pool.state(Mixture.of(0, 1))))
    for name in paper:  # half of W + B A
        torch.testing.assert_close(paper[name], 0.5 * full[name], atol=1e-5, rtol=1e-4)


def test_a_two_pass_system_and_an_exported_folder_have_it(tmp_path) -> None:
    lm, svf, pool = parts_of(save_lora(tmp_path))
    examples, sampling = [Example("hello"), Example("a long one, rather")], Sampling(max_new_tokens=8)
    texts = {}
    for pass2 in ("merged", "per_example"):
        found = TwoPass(HFGenerator(lm, svf), pool, Fixed(weights={"lora": 1.0, "svf": 0.5}), pass2=pass2)
        texts[pass2] = [one.token_ids for [one] in found.generate(examples, sampling)]
    merge_into_base(lm, svf, pool.state(Mixture.of(0.5, 1)))
    exported = [one.token_ids for [one] in HFGenerator(lm).generate(examples, sampling)]
    assert texts["merged"] == texts["per_example"] == exported


def test_a_folder_of_files_and_a_mapping_hold_it(tmp_path) -> None:
    lm, svf = adapted()
    make_expert(1, svf.singular_values, base_model=lm.source, domain="svf").save(tmp_path / "a.safetensors")
    save_lora(tmp_path / "poems")
    pool = ExpertPool.load(tmp_path)
    assert pool.domains == ("poems", "svf")
    named = ExpertPool.load({"svf": tmp_path / "a.safetensors", "poems": tmp_path / "poems"})
    assert named.identity == pool.identity
    assert pool.experts["poems"].parameter_count > 0
    assert pool.experts["poems"].metadata.description == "", "pass 1 reads descriptions"
    (tmp_path / "poems").rename(tmp_path / ".poems.x.unfinished")  # as an export that is killed leaves it
    assert ExpertPool.load(tmp_path).domains == ("svf",)


def change_config(folder: Path, **changes) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "allowed: LORA"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": None}, "lora_alpha is None; allowed: numbers"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 1e39}, r"lora_alpha is 1e\+39"),
        ({"alpha_pattern": [1]}, r"alpha_pattern is \[1\]"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern is '8'"),
        ({"use_rslora": "false"}, "use_rslora is 'false'; allowed: true or false"),
    ],
)
def test_what_is_no_plain_lora_is_refused(changes, message, tmp_path) -> None:
    change_config(save_lora(tmp_path), **changes)
    with pytest.raises(ValueError, match=message):
        LoraExpert.load(tmp_path, "x")


def test_other_tensors_and_values_that_are_not_finite_are_refused(tmp_path) -> None:
    tensors = load_file(save_lora(tmp_path) / WEIGHTS_FILE)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="lm_head"):
        LoraExpert.load(tmp_path, "x")
    save_file({name: one / 0 for name, one in tensors.items()}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="NaN or infinity"):
        LoraExpert.load(tmp_path, "x")
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=WEIGHTS_FILE):
        LoraExpert.load(tmp_path, "x")


def test_another_model_or_a_pool_of_loras_alone_is_refused(tmp_path) -> None:
    lm, svf, pool = parts_of(save_lora(tmp_path))
    lora = pool.loras["lora"]
    with pytest.raises(ValueError, match="All experts of the pool are LoRAs"):
        ExpertPool({"lora": lora})
    other = pool.with_expert("lora", replace(lora, metadata=replace(lora.metadata, base_model="org/other")))
    with pytest.raises(ValueError, match="transfer=true"):
        other.check(svf, source=lm.source)
    other.check(svf, source=lm.source, transfer=True)
    wrong = {m: replace(one, input_factor=one.input_factor[:, 1:]) for m, one in lora.changes.items()}
    with pytest.raises(ValueError, match="this model's matrix is"):
        pool.with_expert("lora", replace(lora, changes=wrong)).check(svf, source=lm.source)


def test_what_applies_no_lora_refuses_a_pool_that_has_one(tmp_path) -> None:
    lm, svf, pool = parts_of(save_lora(tmp_path / "lora"))
    other = SimpleNamespace(lm=lm, adapter=svf)
    with pytest.raises(ValueError, match=r"LoRAs \(lora\), which SimpleNamespace does not mix"):
        TwoPass(other, pool, Fixed(uniform=True))
    with pytest.raises(ValueError, match="The dispatch expert is a LoRA"):
        ExpertPool.load({"svf": tmp_path / "lora"}, dispatch=tmp_path / "lora")
    state = pool.state(Mixture.of(1, 1))
    with pytest.raises(ValueError, match="No adapted matrix is called"):  # a LoRA that nobody made known
        adapted()[1].load(state)


def test_a_map_of_z_and_the_numbers_of_a_lora(tmp_path) -> None:
    _, _, pool = parts_of(save_lora(tmp_path))
    assert pool.svf.keys() == {"svf"}
    assert all(bool((z == 1).all()) for z in pool.multipliers("lora").values())
    assert pool.multipliers("svf") is pool.experts["svf"].scales
