"""Which 3-D parameters are experts, how they lie, and which Linears are routers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo_models import tiny_architecture

from t2.adapters.fused_targets import fused_parameters, fused_target
from t2.adapters.targets import find_matrices, find_targets


def experts(kind: str, leaf: str, *shape: int) -> nn.Module:
    module = type(kind, (nn.Module,), {})()
    module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return module


@pytest.mark.parametrize(
    ("leaf", "shape", "transposed"),
    [
        ("gate_up_proj", (4, 24, 8), False),
        ("gate_up_proj", (4, 8, 24), True),
        ("down_proj", (4, 8, 24), False),
        ("down_proj", (4, 24, 8), True),
    ],
)
def test_the_width_decides_where_the_class_is_unknown(leaf: str, shape: tuple[int, ...], transposed: bool) -> None:
    assert fused_target("x", experts("NewExperts", leaf, *shape), leaf, 8).transposed is transposed


@pytest.mark.parametrize(("leaf", "shape"), [("gate_up_proj", (4, 8, 8)), ("kernel", (4, 24, 8)), ("w1", (4, 24, 16))])
def test_an_unknown_orientation_is_refused_by_name(leaf: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"layers.3.{leaf} .* its class \(NewExperts\) nor its shape"):
        fused_target(f"layers.3.{leaf}", experts("NewExperts", leaf, *shape), leaf, 8)


def test_a_kernel_of_a_convolution_is_no_expert() -> None:
    assert not list(fused_parameters(nn.Sequential(nn.Conv1d(8, 8, 3, groups=8))))


def test_routers_are_adapted_where_they_are_named_and_not_by_name_sets() -> None:
    model = tiny_architecture("qwen2_moe").model  # whose shared expert has a gate, a Linear of one output
    linears, stacks = find_matrices(model, "all", None)
    assert not [name for name in linears if "shared_expert_gate" in name]
    assert len(stacks) == 4
    named, _ = find_matrices(model, ["all", "shared_expert_gate"], None)
    assert named.keys() - linears.keys() == {f"model.layers.{n}.mlp.shared_expert_gate" for n in (0, 1)}
    assert find_targets(model, "all", None).keys() == linears.keys()  # of adapters without 3-D parameters


def test_the_name_set_mlp_has_the_experts() -> None:
    model = tiny_architecture("granitemoe").model
    linears, stacks = find_matrices(model, "mlp", None)
    assert not linears
    assert {name.split(".", 3)[3] for name in stacks} == {
        "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.experts.down_proj",
    }


def test_a_linear_with_a_forward_of_its_own_is_left() -> None:
    class Grouped(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    class FalconLinear(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.T

    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"a": Grouped(4, 4), "b": FalconLinear(4, 4), "c": nn.Linear(4, 4)})])
    assert list(find_targets(model, "all", None)) == ["layers.0.b", "layers.0.c"]
