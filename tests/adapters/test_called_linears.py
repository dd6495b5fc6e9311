"""Linears that a model multiplies by without calling them; how PEFT's adapters use it is in `test_peft`."""

from __future__ import annotations

import pytest
from tiny_models import tiny
from torch import nn
from transformers import BloomConfig, BloomForCausalLM
from zoo_models import tiny_architecture

from t2.adapters.called_linears import check_called


def test_only_the_product_in_plain_torch_counts() -> None:
    """Bloom takes slices of `dense.weight` in a branch, and every initialization reads weights."""
    mamba, path = tiny_architecture("mamba").model, "backbone.layers.0.mixer."
    check_called(mamba, [f"{path}{name}" for name in ("in_proj", "x_proj", "out_proj")])
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    check_called(bloom, ["transformer.h.0.self_attention.dense"])
    check_called(tiny().model, ["model.layers.0.mlp.up_proj"])
    with pytest.raises(ValueError, match=r"weight of backbone\.layers\.0\.mixer\.dt_proj itself"):
        check_called(mamba, [f"{path}dt_proj"])


def test_a_class_without_a_file_is_let_be() -> None:
    model = nn.Sequential(type("Typed", (nn.Module,), {"__module__": "__main__"})())
    model[0].inner = nn.Linear(2, 2)
    check_called(model, ["0.inner"])
