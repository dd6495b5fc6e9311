"""The bytes of a step are those that t2 allocates on a small Llama; what computes less costs less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cost_model import SHAPES, llama, shape
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM

from t2.adapters.svf import SVF
from t2.costs.shapes import on_meta, shape_of
from t2.costs.step import Work, activation_bytes, flops, memory
from t2.models.tiny import tiny_model
from t2.policy.prompt_cache import ROOM, share_prompts
from t2.run.grouped_attention import FORCE_GQA

SMALL = llama(288, 768, 2, 9, 3, 512, tied=True)


def build(dtype: torch.dtype, rank: int | None) -> tuple[nn.Module, SVF]:
    model = LlamaForCausalLM(SMALL).to(dtype).requires_grad_(False).eval()
    svf = SVF(cache=False, progress=False, **({} if rank is None else {"spectrum": "top", "rank": rank}))
    svf.inject(model, "small")
    return model, svf


def sizes(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes by storage."""
    return {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}


@pytest.mark.parametrize("rank", [None, 12])
@pytest.mark.parametrize(("dtype", "number_bytes"), [(torch.bfloat16, 2), (torch.float32, 4)], ids=str)
def test_bytes_are_those_that_are_allocated(
    dtype: torch.dtype, number_bytes: int, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCE_GQA, "0")  # as on a GPU; on a CPU the scripts have keys and values in their own heads
    model, svf = build(dtype, rank)
    small, work = shape_of(on_meta(SMALL)), Work(number_bytes=number_bytes, rank=rank)
    predicted = memory(small, work)
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
    measured = sum(size for where, size in kept.items() if where not in held) / tokens / small.blocks
    assert activation_bytes(small, work) == pytest.approx(measured, rel=0.05)


def test_the_cache_is_what_a_rollout_holds() -> None:
    small, work = shape_of(on_meta(SMALL)), Work(prompts=2, samples=3, prompt_tokens=5, new_tokens=ROOM, number_bytes=4)
    model, cache = LlamaForCausalLM(SMALL), DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.arange(10).view(2, 5), past_key_values=cache)
        share_prompts(cache, work.new_tokens)
        cache.reorder_cache(torch.arange(2).repeat_interleave(3))
        model(input_ids=torch.arange(6)[:, None], past_key_values=cache)
    held = 4 * sum(layer.stored_numbers() for layer in cache.layers)
    together = 4 * 2 * small.kv * 6 * (5 + ROOM)  # of one block, for its forward pass
    assert memory(small, work)["cache"] == held + together


def test_parameters_are_those_of_the_named_models() -> None:
    count = {name: round(shape(name).parameters / 1e9, 2) for name in SHAPES}
    assert count == {"tiny": 0.0, "135m": 0.13, "1b": 1.24, "3b": 3.21, "8b": 8.03, "70b": 70.55}


def test_fewer_singular_values_cost_less_but_never_below_the_model() -> None:
    large, work = shape("8b"), Work()
    thin, base = flops(large, replace(work, rank=16)), flops(large, replace(work, rank=1))
    assert base["update"] <= thin["update"] < 0.5 * flops(large, work)["update"]
    assert thin["decode"] == flops(large, work)["decode"]
    assert thin["merge"] < 0.005 * flops(large, work)["merge"]
    factored = flops(large, replace(work, merged_bytes=None))
    assert factored["merge"] == 0
    assert factored["decode"] > 2 * flops(large, work)["decode"]


def test_sharing_prompts_and_keeping_less_cost_less() -> None:
    large, work = shape("8b"), Work()
    assert flops(large, work)["update"] < flops(large, replace(work, shared=False))["update"]
    again = replace(work, recompute=True)
    assert memory(large, again)["activations"] < 0.1 * memory(large, work)["activations"]
    assert flops(large, again)["update"] > flops(large, work)["update"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_a_quantized_model_are_those_that_are_held(dtype: str) -> None:
    size = 2 if dtype == "bfloat16" else 4
    lm = tiny_model("llama_bias", dtype=dtype)
    shape = shape_of(on_meta(lm.model.config))
    packed = tiny_model("llama_bias", dtype=dtype, quantization="int8").model
    held = sizes([*packed.parameters(), *packed.buffers()])
    rotary = sum(one.numel() * one.element_size() for name, one in packed.named_buffers() if "inv_freq" in name)
    predicted = memory(shape, Work(number_bytes=size, rank=4, quantization="int8"))
    assert predicted["weights"] == sum(held.values()) - rotary
    assert predicted["dequantized"] == 48 * 32 * size * (2 if size == 2 else 1)


def test_four_bits_save_more_than_eight_and_leave_the_tables() -> None:
    large = shape("8b")
    parts = {name: memory(large, Work(rank=16, quantization=name))["weights"] for name in ("none", "int8", "nf4")}
    assert parts["none"] == 2 * large.parameters
    assert parts["int8"] / parts["none"] == pytest.approx(0.5, abs=0.001)
    assert parts["nf4"] == pytest.approx(2 * large.outside + 0.516 * large.dense, rel=1e-3)
