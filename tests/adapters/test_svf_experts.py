"""Experts in 3-D parameters: every mode against the model itself, and against experts that are Linears."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from tiny_models import IDS, adapt, logits, random_state, stacked
from torch import Tensor, nn
from zoo_models import tiny_architecture

from t2.adapters.svf_experts import SVFExperts
from t2.experts.export_hf import merge_into_base
from t2.experts.export_lora import truncate
from t2.models.language_model import LanguageModel

original = functools.cache(tiny_architecture)
# (E, n_out, n_in); (E, n_in, n_out) with biases; no grouped forward pass, of either orientation.
each_mixture = pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss", "llama4_text", "jetmoe"])
each_grouped = pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
each_part = pytest.mark.parametrize(
    "settings",
    [{}, {"spectrum": "top", "rank": 3}, {"spectrum": "random", "rank": 4, "groups": 2, "tie": "layers"},
     {"tie": "modules"}],
    ids=str,
)  # fmt: skip


def mixture(architecture: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    lm = copy.deepcopy(original(architecture))
    lm.model.to(dtype)
    return lm


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


@each_mixture
@each_part
def test_every_mode_computes_the_same_function(architecture: str, settings: dict[str, object]) -> None:
    lm = mixture(architecture)
    base = logits(lm)
    svf = adapt(lm, **settings)
    close(logits(lm), base)
    for number in svf.trainable():
        nn.init.normal_(number, std=0.1)
    active = logits(lm)
    assert not torch.allclose(active, base, atol=1e-2)
    with svf.merged():
        close(logits(lm), active)
    with svf.disabled():
        assert torch.equal(logits(lm), base)
    state = svf.state()
    svf.load({})
    close(logits(lm), base)
    with svf.merged(state):
        close(logits(lm), active)
    svf.load(state)
    assert torch.equal(logits(lm), active)


@each_grouped
@each_part
def test_gradients_are_those_of_a_composed_weight(architecture: str, settings: dict[str, object]) -> None:
    """The factored products against W'(z) in the module's own forward pass, which is exact by another way."""
    lm = mixture(architecture)
    svf = adapt(lm, **settings)
    for number in svf.trainable():
        nn.init.normal_(number, std=0.1)
    found = []
    for grouped in (True, False):
        for module in lm.model.modules():
            if isinstance(module, SVFExperts):
                module.is_grouped = grouped
        loss = lm.model(input_ids=IDS).logits.square().mean()
        found.append(torch.autograd.grad(loss, svf.trainable()))
    for one, other in zip(*found, strict=True):
        assert bool((one != 0).all())
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@each_grouped
def test_an_example_has_its_own_state_whatever_experts_it_reaches(architecture: str) -> None:
    lm = mixture(architecture)
    svf = adapt(lm)
    states = [random_state(svf, seed) for seed in range(3)]
    alone = []
    for state in states:
        svf.load(state)
        alone.append(logits(lm))
    index = torch.tensor([2, 0, 1, 1, 0])
    with svf.per_example(stacked(*states)) as select:
        select(index)
        together = logits(lm)
    for row, state in enumerate(index.tolist()):
        close(together[row], alone[state][row])


def test_states_by_example_are_refused_where_tokens_are_not_known_by_theirs() -> None:
    lm = mixture("jetmoe")
    svf = adapt(lm)
    with pytest.raises(ValueError, match=r"JetMoeParallelExperts see tokens without .* Use pass2=merged"):
        svf.per_example(stacked(svf.state())).__enter__()
    assert all(unit.layer.example_scales is None for unit in svf.units.values())


def test_half_precision_keeps_small_changes() -> None:
    """A change of 1e-3, below bf16's spacing at 1, changes the output as much as it does in fp32."""
    effects = []
    for dtype in (torch.float32, torch.bfloat16):
        lm = mixture("qwen3_moe", dtype)
        svf = adapt(lm, modules="mlp")
        assert all(number.dtype == torch.float32 for number in svf.trainable())
        layer = next(unit.layer for unit in svf.units.values())
        assert next(iter(svf.units)).endswith("experts.gate_up_proj")
        x = torch.linspace(-1, 1, 4 * 32).view(4, 32).to(dtype)
        routed = type("Routed", (), {})()
        routed.experts, routed.ends, routed.examples = torch.arange(4), torch.arange(1, 5).int(), None
        base = layer(x, routed)
        svf.load({name: z + 1e-3 for name, z in svf.state().items()})
        effects.append((layer(x, routed) - base).detach().float())
    assert float(effects[1].abs().sum()) == pytest.approx(float(effects[0].abs().sum()), rel=0.25)


def test_a_matrix_of_an_expert_is_named_by_its_number_and_has_its_own_singular_values() -> None:
    lm = mixture("gpt_oss")
    base = copy.deepcopy(lm.model)
    svf = adapt(lm, modules="gate_up_proj", layers=[1])
    assert list(svf.state()) == [f"model.layers.1.mlp.experts.gate_up_proj[{expert}]" for expert in range(4)]
    weight = base.model.layers[1].mlp.experts.gate_up_proj
    for expert, s in enumerate(svf.singular_values.values()):
        torch.testing.assert_close(s, torch.linalg.svdvals(weight[expert]), rtol=1e-4, atol=1e-5)
    name = "model.layers.1.mlp.experts.gate_up_proj[2]"
    state = {name: torch.full_like(svf.state()[name], 2.0)}
    ((parameter, composed),) = svf.merged_weights(state)
    assert parameter == "model.layers.1.mlp.experts.gate_up_proj"
    torch.testing.assert_close(composed[2], 2 * weight[2], rtol=0, atol=1e-5)
    assert torch.equal(composed[[0, 1, 3]], weight[[0, 1, 3]])
    with pytest.raises(ValueError, match=r"No adapted matrix is called 'model.layers.1.mlp.experts.gate_up_proj\[4\]'"):
        svf.load({"model.layers.1.mlp.experts.gate_up_proj[4]": state[name]})


@each_mixture
def test_a_merged_model_is_the_plain_class_with_other_weights(architecture: str) -> None:
    lm = mixture(architecture)
    plain = copy.deepcopy(lm.model)
    svf = adapt(lm, spread=0.1)
    active = logits(lm)
    merge_into_base(lm, svf, svf.state())
    assert lm.model.state_dict().keys() == plain.state_dict().keys()
    assert not any(isinstance(module, SVFExperts) for module in lm.model.modules())
    plain.load_state_dict(lm.model.state_dict())
    with torch.no_grad():
        close(plain(input_ids=IDS).logits, active)


def test_what_knows_linears_alone_refuses_experts() -> None:
    svf = adapt(mixture("qwen3_moe"), spread=0.1)
    with pytest.raises(ValueError, match=r"A LoRA takes matrices of Linear .*experts.gate_up_proj for one. Export"):
        truncate(svf, svf.state(), None)


def test_energy_is_refused_since_experts_share_a_shape() -> None:
    with pytest.raises(ValueError, match=r"energy keeps another number .* adapter.spectrum=top"):
        adapt(mixture("qwen3_moe"), spectrum="energy", share=0.5)


def test_a_copy_has_weights_and_numbers_of_its_own() -> None:
    lm = mixture("qwen3_moe")
    lm.svf = adapt(lm)  # type: ignore[attr-defined]
    before = logits(lm)
    other = copy.deepcopy(lm)
    other.svf.load(random_state(other.svf))  # type: ignore[attr-defined]
    with torch.no_grad():
        other.model.model.layers[0].mlp.experts.base.down_proj.zero_()
    assert torch.equal(logits(lm), before)
    assert not torch.allclose(logits(other), before, atol=1e-2)
