"""Which matrices are found: name sets, patterns and layers, on toy models and on Llama-3-8B's shapes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import each_architecture, original
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from t2.adapters.svf_linear import dense_weight
from t2.adapters.targets import chosen_layers, decoder_blocks, find_targets
from t2.models.tiny import tiny_model

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_model("llama", layers=4).model


@pytest.fixture(scope="module")
def llama_8b() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def within(model, modules, layers=None) -> list[str]:
    """Names within the first block that is chosen, in the order found."""
    names = [name.split(".", 3) for name in find_targets(model, modules, layers)]  # model.layers.0.mlp.up_proj
    return [name[3] for name in names if name[2] == names[0][2]]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ("all", ATTENTION + MLP),
        ("mlp", MLP),
        ("attention", ATTENTION),
        (["mlp", "attention"], ATTENTION + MLP),
        ("q_proj", ["self_attn.q_proj"]),
        (["v_proj", "q_proj"], ["self_attn.q_proj", "self_attn.v_proj"]),
        (["q_proj", "attention"], ATTENTION),  # what two patterns match is adapted once
        (r"mlp\.(up|down)_proj", ["mlp.up_proj", "mlp.down_proj"]),
        (r".*\.[qv]_proj", ["self_attn.q_proj", "self_attn.v_proj"]),
        ("self_attn.o_proj", ["self_attn.o_proj"]),
    ],
)
def test_patterns(llama, modules, expected):
    assert within(llama, modules) == expected


@each_architecture
def test_all_is_every_linear_of_the_blocks_and_nothing_else_as_are_mlp_and_attention(architecture):
    model = original(architecture).model
    found, mlp, attention = (find_targets(model, modules, None) for modules in ("all", "mlp", "attention"))
    prefix, blocks = decoder_blocks(model)
    matrices = [name for name, weight in blocks.named_parameters() if weight.ndim == 2]
    assert sorted(found) == sorted(f"{prefix}.{name.removesuffix('.weight')}" for name in matrices)
    assert all(model.get_submodule(name) is module for name, module in found.items())
    assert mlp
    assert attention
    assert not mlp.keys() & attention.keys()
    assert mlp.keys() | attention.keys() == found.keys()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(None, [0, 1, 2, 3]), ([2], [2]), ([-1], [3]), ([3, 0, -4], [0, 3]), (1.0, [0, 1, 2, 3])],
)
def test_layers(llama, layers, expected):
    assert sorted({int(name.split(".")[2]) for name in find_targets(llama, "all", layers)}) == expected


def test_half_is_every_other_layer_and_a_fraction_does_not_gain_one_from_rounding():
    assert chosen_layers(8, 0.5) == [1, 3, 5, 7]
    assert 0.07 * 100 > 7  # in floating point
    assert len(chosen_layers(100, 0.07)) == 7


@given(count=st.integers(1, 100), fraction=st.floats(0.01, 1.0))
def test_a_fraction_is_evenly_spaced(count, fraction):
    chosen = chosen_layers(count, fraction)
    assert len(chosen) == len(set(chosen))
    assert abs(len(chosen) - fraction * count) < 1
    assert set(chosen) <= set(range(count))
    gaps = {later - earlier for earlier, later in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("modules", "layers", "message"),
    [
        *[("all", fraction, "fraction above 0 and at most 1") for fraction in (0.0, -0.5, 1.5, 2.0)],
        *[("all", layers, "has layers 0 to 3") for layers in ([4], [0, -5], [])],
        ("all", 1, r"write \[1\] for that layer"),
        ("q_porj", None, r"matches no matrix\. Allowed: all, mlp, .*Did you mean 'q_proj'"),
        ("atention", None, r"matches no matrix\. Allowed: all, mlp, .*Did you mean 'attention'"),
        ("mlp.up_prj", None, r"matches no matrix\. Allowed: all, mlp, .*Did you mean 'mlp.up_proj'"),
        ("up_pro", None, "matches no matrix"),  # a pattern must match the whole name
        (["mlp", "c_fc"], None, "modules='c_fc' matches no matrix"),  # also among others that match
        ("*_proj", None, r"modules='\*_proj' is no regular expression"),
        ([], None, "empty list"),
    ],
)
def test_targets_that_do_not_exist_are_refused(llama, modules, layers, message):
    with pytest.raises(ValueError, match=message):
        find_targets(llama, modules, layers)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="no list of decoder blocks"):
        find_targets(nn.Sequential(nn.Linear(2, 2)), "all", None)


def test_the_longest_outer_list_holds_the_blocks():
    model = nn.Module()
    model.tower = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    blocks = [nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(9))}) for _ in range(3)]
    model.blocks = nn.ModuleList(blocks)
    assert decoder_blocks(model)[0] == "blocks"


@pytest.mark.parametrize(
    ("modules", "layers", "expected"),
    [
        ("mlp", None, 393_216),  # 0.39M, paper Table 4
        ("mlp", 0.5, 393_216 // 2),
        (["q_proj", "v_proj"], None, 163_840),  # 0.16M, its "attention"
        ("all", None, 32 * (5 * 4096 + 2 * 1024)),
    ],
)
def test_parameter_counts_of_llama_3_8b(llama_8b, modules, layers, expected):
    found = find_targets(llama_8b, modules, layers)
    assert sum(min(dense_weight(module).shape) for module in found.values()) == expected
