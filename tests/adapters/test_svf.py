"""SVF: three modes of one function, gradients of z alone, and a base model that stays what it was."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import adapt, adapted, each_architecture, logits, original, random_state, same_states, stacked, tiny

from t2.adapters.parametrizations import PARAMETRIZATIONS
from t2.adapters.svf import SVF


def moved(parametrization: str, spread: float, **settings):
    """An adapter after a random step of its raw parameters."""
    lm, svf = adapted(parametrization=parametrization, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for vector in svf.trainable():
            vector.add_(spread * torch.randn(vector.shape, generator=generator))
    return lm, svf


# z = 1 is the base model


@each_architecture
def test_factored_at_one_is_the_base(architecture):
    lm, _ = adapted(architecture)
    torch.testing.assert_close(logits(lm), logits(original(architecture)), rtol=0, atol=5e-3)


@each_architecture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_at_one_and_disabled_are_the_base_bit_for_bit(architecture, dtype):
    lm = tiny(architecture, dtype=dtype)
    expected = logits(lm)
    svf = adapt(lm)
    for mode in (svf.disabled(), svf.merged()):
        with mode:
            assert torch.equal(logits(lm), expected)


@each_architecture
def test_disabled_is_the_base_bit_for_bit_whatever_z_is(architecture):
    lm, svf = adapted(architecture, spread=0.3)
    assert (logits(lm) - logits(original(architecture))).abs().max() > 0.1
    with svf.disabled():
        assert torch.equal(logits(lm), logits(original(architecture)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_injection_and_merging_at_one_keep_every_bit_of_the_weights(architecture, dtype):
    lm = tiny(architecture, dtype=dtype)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    svf = adapt(lm)
    assert all(torch.equal(weight, before[name]) for name, weight in svf.merged_weights())
    for name, layer in svf.layers.items():
        assert torch.equal(layer.base.weight, before[f"{name}.weight"])


# One function


@each_architecture
def test_factored_is_merged_and_so_is_a_fresh_model_with_the_merged_weights(architecture):
    lm, svf = adapted(architecture, spread=0.3)
    factored, fresh = logits(lm), tiny(architecture)
    with svf.merged():
        torch.testing.assert_close(factored, logits(lm), rtol=1e-3, atol=5e-3)
        assert not lm.model(input_ids=torch.tensor([[1, 2]])).logits.requires_grad
    weights = dict(svf.merged_weights())
    assert set(weights) <= set(fresh.model.state_dict())
    assert len(weights) == len(svf.layers)
    missing, unexpected = fresh.model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not set(missing) & set(weights)
    torch.testing.assert_close(logits(fresh), factored, rtol=1e-3, atol=5e-3)


@each_architecture
def test_each_example_has_its_own_z(architecture):
    lm, svf = adapted(architecture)
    states = [random_state(svf, seed, 0.3) for seed in range(4)]
    states.append({name: torch.ones_like(s) for name, s in svf.singular_values.items()})  # the base among them
    with svf.per_example(stacked(*states)):
        together = logits(lm)
    for index, state in enumerate(states):
        svf.load(state)
        with svf.merged():
            torch.testing.assert_close(together[index], logits(lm)[index], rtol=1e-3, atol=5e-3)


# Training


@each_architecture
def test_only_z_gets_gradients(architecture):
    lm, svf = adapted(architecture)
    lm.model(input_ids=torch.arange(9)[None]).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in svf.trainable())
    learned = {id(p) for p in svf.trainable()}
    rest = [p for p in lm.model.parameters() if id(p) not in learned]
    assert len(rest) >= len(learned)
    assert all(p.grad is None and not p.requires_grad for p in rest)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_checkpoint_holds_the_vectors_alone(parametrization):
    _, svf = adapted(parametrization=parametrization)
    held = sum(tensor.numel() for tensor in svf.state_dict().values())
    assert held == sum(p.numel() for p in svf.trainable()) == sum(s.numel() for s in svf.singular_values.values())


# State


@pytest.mark.parametrize(
    ("source", "spread", "target"),
    [("direct", 0.1, "direct"), ("sigmoid_nuclear", 0.1, "sigmoid_nuclear"), ("sigmoid_nuclear", 0.5, "direct")],
)
def test_state_means_the_same_to_a_fresh_adapter_of_either_parametrization(source, spread, target):
    lm, svf = moved(source, spread)
    other_lm, other = adapted(parametrization=target)
    other.load(svf.state())
    for name, z in svf.state().items():
        torch.testing.assert_close(other.state()[name], z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(other_lm), logits(lm), rtol=1e-4, atol=1e-3)


def test_state_is_a_detached_fp32_copy_and_matrices_that_one_leaves_out_go_back_to_one():
    _, svf = adapted(spread=0.3)
    first, state = next(iter(svf.layers)), svf.state()
    for z in state.values():
        z.zero_()
    assert all(z.dtype == torch.float32 and not z.requires_grad for z in state.values())
    assert all(bool((z != 0).all()) for z in svf.state().values())
    svf.load({first: torch.full_like(svf.singular_values[first], 2.0)})
    assert {name for name, z in svf.state().items() if not bool((z == 1).all())} == {first}


@pytest.mark.parametrize(
    ("parametrization", "change", "message"),
    [
        ("direct", lambda name, z: {name + "x": z}, "No adapted matrix is called"),
        ("direct", lambda name, z: {name: z[:-1]}, r"got z of shape \(\d+,\), expected"),
        ("direct", lambda name, z: {name: z[None]}, r"got z of shape \(1, \d+\), expected"),
        ("sigmoid_nuclear", lambda name, z: {name: 2 * z}, r"nuclear norm.*parametrization=direct"),
    ],
)
def test_a_state_whose_last_matrix_does_not_fit_is_refused_and_changes_none(parametrization, change, message):
    _, svf = moved(parametrization, 0.1)
    before = svf.state()
    state = {name: torch.ones_like(z) for name, z in before.items()}
    last = list(state)[-1]
    with pytest.raises(ValueError, match=message):
        svf.load({**state, **change(last, state[last])})
    assert same_states(svf.state(), before)


def test_sigmoid_nuclear_keeps_the_nuclear_norm_of_every_matrix():
    _, svf = moved("sigmoid_nuclear", 1.0)
    for name, weight in svf.merged_weights():
        before = original("llama").model.get_parameter(name)
        assert not torch.allclose(weight, before, atol=1e-2)
        norms = [torch.linalg.matrix_norm(w.double(), "nuc") for w in (weight, before)]
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0)


# Contexts

MODES = ["merged", "disabled", "per_example"]


def modes(svf: SVF) -> dict[str, Callable]:
    scales = stacked(*[random_state(svf, seed=9)] * 5)
    return {"merged": svf.merged, "disabled": svf.disabled, "per_example": lambda: svf.per_example(scales)}


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", MODES)
def test_contexts_nest_and_restore_also_after_an_exception(outer, inner):
    lm, svf = adapted(spread=0.3)
    contexts, outside = modes(svf), logits(lm)
    with contexts[outer]():
        expected = logits(lm)
        with contexts[inner]():
            logits(lm)
        assert torch.equal(logits(lm), expected)
    assert torch.equal(logits(lm), outside)
    with pytest.raises(KeyboardInterrupt), contexts[outer](), contexts[inner]():
        raise KeyboardInterrupt
    assert torch.equal(logits(lm), outside)
    assert all(layer.merged_weight is None and layer.example_scales is None for layer in svf.layers.values())


def test_a_failure_while_merging_leaves_nothing_behind(monkeypatch):
    _, svf = adapted()
    *_, last = svf.layers.values()

    def out_of_memory(z):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(last, "compose", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), svf.merged():
        pass
    assert all(layer.merged_weight is None for layer in svf.layers.values())
    assert svf.mode.name == "factored"
