"""The cost model predicts what t2 allocates on a small Llama, and the documentation holds its table."""

from __future__ import annotations

from dataclasses import replace

import cost_model
import pytest
import torch
from conftest import ROOT
from cost_model import SHAPES, Shape, Work
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from t2.adapters.svf import SVF

SMALL = replace(SHAPES["135m"], hidden=288, intermediate=768, blocks=2, vocabulary=512)


def build(shape: Shape, dtype: torch.dtype, rank: int | None) -> tuple[nn.Module, SVF]:
    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).requires_grad_(False).eval()
    svf = SVF(cache=False, progress=False, **({} if rank is None else {"spectrum": "top", "rank": rank}))
    svf.inject(model, "small")
    return model, svf


def sizes(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes by storage."""
    return {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}


@pytest.mark.parametrize("rank", [None, 12])
@pytest.mark.parametrize(("dtype", "number_bytes"), [(torch.bfloat16, 2), (torch.float32, 4)], ids=str)
def test_bytes_are_those_that_are_allocated(dtype: torch.dtype, number_bytes: int, rank: int | None) -> None:
    model, svf = build(SMALL, dtype, rank)
    work = Work(number_bytes=number_bytes, rank=rank)
    predicted = cost_model.memory(SMALL, work)
    held = sizes([*model.parameters(), *model.buffers()])
    rotary = sum(one.numel() * one.element_size() for name, one in model.named_buffers() if "inv_freq" in name)
    trained = sum(p.numel() for p in svf.trainable())
    assert predicted["z and AdamW"] == 16 * trained
    assert sum(held.values()) == predicted["weights"] + predicted["factors"] + 4 * trained + rotary
    tokens, kept = 64, {}

    def note(tensor: Tensor) -> Tensor:
        kept.update(sizes([tensor]))
        return tensor

    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.base_model(
            input_ids=torch.arange(tokens)[None], position_ids=torch.arange(tokens)[None], attention_mask=mask,
            use_cache=False,
        )  # fmt: skip
    measured = sum(size for where, size in kept.items() if where not in held) / tokens / SMALL.blocks
    assert cost_model.activation_bytes(SMALL, work) == pytest.approx(measured, rel=0.05)


def test_parameters_are_those_of_the_named_models() -> None:
    count = {name: round(shape.parameters / 1e9, 2) for name, shape in SHAPES.items()}
    assert count == {"tiny": 0.0, "135m": 0.13, "1b": 1.24, "3b": 3.21, "8b": 8.03, "70b": 70.55}


@pytest.mark.parametrize("rank", [None, 16])
def test_the_page_holds_the_table(rank: int | None) -> None:
    table = cost_model.report(["135m", "1b", "8b", "70b"], Work(rank=rank), cost_model.GPUS["h100"])
    assert f"```text\n{table}\n```" in (ROOT / "docs" / "cost.md").read_text()


def test_fewer_singular_values_cost_less_but_never_below_the_model() -> None:
    shape, work = SHAPES["8b"], Work()
    thin, base = cost_model.flops(shape, replace(work, rank=16)), cost_model.flops(shape, replace(work, rank=1))
    assert base["update"] <= thin["update"] < 0.5 * cost_model.flops(shape, work)["update"]
    assert thin["decode"] == cost_model.flops(shape, work)["decode"]
    assert thin["merge"] < 0.005 * cost_model.flops(shape, work)["merge"]


def test_sharing_prompts_and_keeping_less_cost_less() -> None:
    shape, work = SHAPES["8b"], Work()
    assert cost_model.flops(shape, work)["update"] < cost_model.flops(shape, replace(work, shared=False))["update"]
    again = replace(work, recompute=True)
    assert cost_model.memory(shape, again)["activations"] < 0.1 * cost_model.memory(shape, work)["activations"]
    assert cost_model.flops(shape, again)["update"] > cost_model.flops(shape, work)["update"]
