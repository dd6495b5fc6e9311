"""What holds for every adapter: SVF, those of PEFT, and steering vectors."""

from __future__ import annotations

import pytest
import torch
from adapter_family import each_adapter, each_other, injected, move
from tiny_models import IDS, logits, original, same_states, tiny, token_ids

from t2.policy.hf import HFGenerator
from t2.policy.vllm_weights import complete_weights, modules_of
from t2.types import Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 20, 11)]
BASE = logits(original("llama"))
# Conv1D, biases (which IA3 rescales), and blocks with norms after them.
each_shape = pytest.mark.parametrize(
    ("name", "architecture"),
    [("lora", "gpt2"), ("dora", "gpt2"), ("ia3", "llama_bias"), ("vera", "llama_bias"), ("steering", "gpt2"),
     ("steering", "gemma3")],
)  # fmt: skip


def close(name: str) -> dict[str, float]:
    """SVF computes W anew from its factors; the others add to W x."""
    return {"rtol": 0, "atol": 1e-4 if name == "svf" else 2e-5}


def train(lm, adapter, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(adapter.trainable(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        lm.model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()


@each_adapter
def test_it_begins_at_the_base(name: str) -> None:
    lm, _ = injected(name)
    torch.testing.assert_close(logits(lm), BASE, **close(name))


@each_adapter
def test_one_adapter_is_for_one_model(name: str) -> None:
    """Its numbers would be those of the second model, and the first would answer with them."""
    lm, adapter = injected(name, spread=0.02)
    before, other = logits(lm), tiny("llama")
    with pytest.raises(ValueError, match="in a model already; make another one"):
        adapter.inject(other.model, other.source)
    assert torch.equal(logits(lm), before)
    assert torch.equal(logits(other), BASE)


@each_adapter
def test_disabled_is_the_base_bit_for_bit_after_training(name: str) -> None:
    lm, adapter = injected(name)
    names = [one for one, _ in original("llama").model.named_modules()]
    train(lm, adapter)
    moved = logits(lm)
    assert not torch.allclose(moved, BASE, atol=1e-4)
    with adapter.disabled():
        assert torch.equal(logits(lm), BASE)
    with adapter.merged(), adapter.disabled():
        assert torch.equal(logits(lm), BASE)
    with adapter.merged({}):
        assert torch.equal(logits(lm), BASE)
    assert torch.equal(logits(lm), moved)
    assert type(lm.model) is type(original("llama").model)
    assert set(names) <= {one for one, _ in lm.model.named_modules()}


@each_adapter
def test_merged_is_the_active_mode_without_gradients(name: str) -> None:
    lm, adapter = injected(name, spread=0.02)
    active, state = logits(lm), adapter.state()
    with adapter.merged():
        torch.testing.assert_close(logits(lm), active, **close(name))
    move(adapter, 0.05, seed=1)
    other = logits(lm)
    with adapter.merged(state):  # one that is not loaded
        torch.testing.assert_close(logits(lm), active, **close(name))
    with adapter.disabled():
        with adapter.merged(state):
            torch.testing.assert_close(logits(lm), active, **close(name))
        with adapter.merged():
            torch.testing.assert_close(logits(lm), other, **close(name))
        assert torch.equal(logits(lm), BASE)
    assert torch.equal(logits(lm), other)


@each_shape
def test_it_fits_other_architectures(name: str, architecture: str) -> None:
    base = logits(original(architecture))
    wanted = {"ia3": "llama_bias"}.get(name, architecture)
    lm, adapter = injected(name, tiny(wanted))
    torch.testing.assert_close(logits(lm), base, **close(name))
    move(adapter, 0.02)
    active = logits(lm)
    with adapter.merged():
        torch.testing.assert_close(logits(lm), active, **close(name))
    with adapter.disabled():
        assert torch.equal(logits(lm), base)


@each_adapter
def test_merged_weights_are_those_of_the_merged_mode(name: str) -> None:
    lm, adapter = injected(name, tiny("llama_bias"), spread=0.02)
    if name == "steering":
        with pytest.raises(ValueError, match="Use generation=hf"):
            next(adapter.merged_weights())
        return
    dense = tiny("llama_bias")
    modules = modules_of(adapter, adapter.state())
    sent = dict(complete_weights(dense, modules, None)).keys()
    weights = dict(complete_weights(lm, modules, adapter))
    assert weights.keys() == sent  # the names of a checkpoint, siblings included
    dense.model.load_state_dict(weights, strict=False)
    torch.testing.assert_close(logits(dense), logits(lm), **close(name))
    restored = dict(complete_weights(lm, modules, None))
    before = original("llama_bias").model.state_dict()
    assert all(torch.equal(value, before[one]) for one, value in restored.items())


@each_adapter
def test_a_state_is_all_that_was_learned(name: str) -> None:
    lm, adapter = injected(name, spread=0.02)
    state = adapter.state()
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in state.values())
    other, fresh = injected(name, seed=1 if name not in ("vera", "tinylora", "random_basis") else 0)
    fresh.load(state)
    assert same_states(fresh.state(), state)
    torch.testing.assert_close(logits(other), logits(lm), **close(name))
    move(adapter, 0.1, seed=2)
    assert same_states(fresh.state(), state)  # no view of the other's
    fresh.load({})
    torch.testing.assert_close(logits(other), BASE, **close(name))


@each_adapter
def test_gradients_reach_everything_that_is_trained_and_nothing_else(name: str) -> None:
    lm, adapter = injected(name, spread=0.02)
    lm.model(input_ids=IDS).logits.square().mean().backward()
    assert all(bool((p.grad != 0).any()) and p.dtype == torch.float32 for p in adapter.trainable())
    with adapter.disabled():
        assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters() if not is_in(p, adapter))


def is_in(parameter: torch.nn.Parameter, adapter) -> bool:
    return any(parameter is one for one in adapter.trainable())


@each_adapter
@pytest.mark.parametrize("method", ["load", "merged"])
def test_a_bad_state_is_refused_and_nothing_changes(name: str, method: str) -> None:
    lm, adapter = injected(name, spread=0.02)
    before, active = adapter.state(), logits(lm)
    last = list(before)[-1]
    changed = {key: value * 1.01 for key, value in before.items()}
    for bad, message in (
        (changed | {"model.layers.9.what": torch.ones(2)}, "is called 'model.layers.9.what'"),
        (changed | {last: torch.ones(7, 3)}, r"\(7, 3\), expected \("),
    ):
        with pytest.raises(ValueError, match=message):
            adapter.load(bad) if method == "load" else adapter.merged(bad).__enter__()
        assert same_states(adapter.state(), before)
        assert torch.equal(logits(lm), active)


@each_adapter
def test_generation_is_transformers_greedy_under_the_active_model(name: str) -> None:
    lm, adapter = injected(name, tiny(ends=True), spread=0.05)
    found = HFGenerator(lm, adapter).generate(EXAMPLES, Sampling(max_new_tokens=10))
    base = HFGenerator(tiny(ends=True)).generate(EXAMPLES, Sampling(max_new_tokens=10))
    assert token_ids(HFGenerator(lm, adapter, weights="base").generate(EXAMPLES, Sampling(max_new_tokens=10))) == (
        token_ids(base)
    )
    for example, (answer,) in zip(EXAMPLES, found, strict=True):
        prompt = lm.encode(example)
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": sorted(lm.end_ids)}
        expected = lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        assert tuple(expected[0, len(prompt) :].tolist()) == answer.token_ids


@each_other
def test_half_precision_keeps_small_steps_and_the_base(name: str) -> None:
    lm, adapter = injected(name, tiny(dtype=torch.bfloat16))
    base = logits(tiny(dtype=torch.bfloat16))
    assert not HFGenerator(lm, adapter).merges  # rollouts and training compute alike
    before = adapter.state()
    train(lm, adapter, steps=1)
    assert all(p.dtype == torch.float32 for p in adapter.trainable())
    assert not same_states(adapter.state(), before)
    with adapter.disabled():
        assert torch.equal(logits(lm), base)
    with adapter.merged({}):
        assert torch.equal(logits(lm), base)


@each_other
def test_a_model_is_adapted_once(name: str) -> None:
    lm, _ = injected(name)
    for second in ("svf", "lora", "steering"):
        if "steering" not in (name, second) or name == second:
            with pytest.raises(ValueError, match="has an adapter already"):
                injected(second, lm)
