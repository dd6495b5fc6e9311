"""What is sent to an engine that keeps weights of its own: adapted matrices, what is fused with them, nothing else."""

from __future__ import annotations

import torch
from tiny_models import adapted, original

from t2.adapters.svf import SVF
from t2.models.tiny import tiny_llava
from t2.policy.vllm_weights import complete_weights, modules_of, same_state

BEFORE = original("qwen2").model.state_dict()


def test_siblings_of_adapted_matrices_are_sent_too() -> None:
    lm, svf = adapted("qwen2", modules=["q_proj"], spread=0.2)  # with biases at q, k and v
    sent = dict(complete_weights(lm, svf.layers, svf))
    assert {name.split(".", 3)[3] for name in sent} == {
        "self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.weight", "self_attn.k_proj.bias",
        "self_attn.v_proj.weight", "self_attn.v_proj.bias", "self_attn.o_proj.weight",
    }  # fmt: skip
    for name, value in sent.items():
        assert value.shape == BEFORE[name].shape
        assert torch.equal(value, BEFORE[name]) != name.endswith("q_proj.weight"), name


def test_the_base_is_sent_as_it_was() -> None:
    lm, svf = adapted("qwen2", modules=["q_proj"], spread=0.2)  # with biases at q, k and v
    restored = dict(complete_weights(lm, svf.layers, None))
    assert restored.keys() == dict(complete_weights(lm, svf.layers, svf)).keys()
    assert all(torch.equal(value, BEFORE[name]) for name, value in restored.items())


def test_a_vision_language_model_gets_back_what_it_was_sent() -> None:
    """Its modules have the names of the text model, its parameters their own: nothing would be sent back."""
    lm = tiny_llava("qwen2")
    svf = SVF(["q_proj", "v_proj"], cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    modules = modules_of(svf, svf.state().keys())
    sent, restored = (dict(complete_weights(lm, modules, one)) for one in (svf, None))
    assert sent.keys() == restored.keys()
    assert len(sent) == 2 * 7  # three weights and biases and o_proj of each block


def test_another_state_is_sent_without_being_loaded() -> None:
    lm, svf = adapted("qwen2", modules=["up_proj"], spread=0.2)
    learned = svf.state()
    ones = {name: torch.ones_like(z) for name, z in learned.items()}
    for name, value in complete_weights(lm, svf.layers, svf, ones):
        torch.testing.assert_close(value, BEFORE[name], rtol=0, atol=1e-5)
    assert same_state(svf.state(), learned)


def test_states_are_the_same_number_for_number() -> None:
    one = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert same_state(one, {name: z.clone() for name, z in one.items()})
    assert same_state(None, None)
    assert not same_state(one, None)
    assert not same_state(None, one)
    assert not same_state(one, {"a": torch.ones(3)})
    assert not same_state(one, one | {"b": torch.tensor([0.0, 1e-30])})
