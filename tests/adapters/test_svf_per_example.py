"""SVF with a state per example, or with one that is given: right for every example, and nothing is left behind."""

import pytest
import torch
from tiny_models import (
    IDS,
    adapt,
    adapted,
    each_architecture,
    logits,
    original,
    random_state,
    same_states,
    stacked,
    tiny,
)
from torch import Tensor

from t2.adapters.svf import SVF


def some_scales(svf: SVF) -> dict[str, Tensor]:
    """Three states; the last one is the base."""
    base = {name: torch.ones_like(s) for name, s in svf.singular_values.items()}
    return stacked(random_state(svf, 1, 0.3), random_state(svf, 2, 0.3), base)


def state_of(scales: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    return {name: states[number] for name, states in scales.items()}


def shown(svf: SVF) -> tuple:
    """All that a mode leaves in the adapter and its layers."""
    held = [(layer.merged_weight, layer.example_scales) for layer in svf.layers.values()]
    return svf.mode.name, svf.mode.per_example, svf.mode.index, held


# A state per example


@each_architecture
def test_an_index_says_which_state_each_example_has(architecture):
    lm, svf = adapted(architecture)
    scales, index = some_scales(svf), [2, 0, 0, 1, 2]
    with svf.per_example(scales) as select:
        select(torch.tensor(index))
        together = logits(lm)
        select(torch.tensor([0, 1, 2]))
        one, two, base = logits(lm, IDS[:1].expand(3, -1))
    assert min((one - two).abs().max(), (one - base).abs().max(), (two - base).abs().max()) > 0.1
    for row, number in enumerate(index):
        with svf.merged(state_of(scales, number)):
            torch.testing.assert_close(together[row], logits(lm)[row], rtol=1e-3, atol=5e-3)
    torch.testing.assert_close(together[[0, 4]], logits(original(architecture))[[0, 4]], rtol=0, atol=5e-3)


def test_the_index_may_change_in_length_between_batches():
    lm, svf = adapted()
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        all_rows = logits(lm)
        select(torch.tensor([2, 0]))
        torch.testing.assert_close(logits(lm, IDS[[2, 4]]), all_rows[[2, 4]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision_is_the_factored_mode_of_each_state(architecture):
    lm = tiny(architecture, dtype=torch.bfloat16)
    expected_base = logits(lm)
    svf = adapt(lm)
    scales = some_scales(svf)
    with svf.per_example(scales) as select:
        select(torch.tensor([2, 0, 1, 2, 0]))
        together = logits(lm)
    torch.testing.assert_close(together[[0, 3]], expected_base[[0, 3]], rtol=0, atol=0.05)
    for row, number in ((1, 0), (2, 1)):
        svf.load(state_of(scales, number))
        torch.testing.assert_close(together[row], logits(lm)[row], rtol=0, atol=0.05)


def test_half_precision_keeps_a_small_step():
    _, svf = adapted(dtype=torch.bfloat16)
    layer = next(iter(svf.layers.values()))
    x = torch.randn(2, 400, layer.input_factor.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    ones = {name: torch.ones_like(s) for name, s in svf.singular_values.items()}
    with svf.per_example(stacked(ones, {name: 1.001 * z for name, z in ones.items()})), torch.no_grad():
        base, moved = layer(x[[0, 0]]).double()
    gain = float((moved * base).sum() / (base * base).sum()) - 1
    assert gain == pytest.approx(1e-3, rel=0.2)


# Nothing is written


@each_architecture
def test_no_dense_weight_is_written_and_what_was_learned_stays(monkeypatch, architecture):
    lm, svf = adapted(architecture, spread=0.3)
    before, learned = logits(lm), svf.state()
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    tensors = lambda: dict(lm.model.named_parameters()) | dict(lm.model.named_buffers())  # noqa: E731
    held = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in tensors().items()}
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        logits(lm)
        assert all(layer.merged_weight is None for layer in svf.layers.values())
        now = tensors()
    assert now.keys() == held.keys()
    assert all(tensor.data_ptr() == held[name][0] for name, tensor in now.items())
    assert all(torch.equal(tensor, held[name][1]) for name, tensor in now.items())
    assert same_states(svf.state(), learned)
    assert torch.equal(logits(lm), before)


def test_the_mode_comes_back_after_an_error():
    lm, svf = adapted()
    before = shown(svf)
    with pytest.raises(IndexError), svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 3, 1, 0])), logits(lm)
    assert shown(svf) == before


def test_modes_within_modes_come_back_one_by_one():
    lm, svf = adapted(spread=0.3)
    scales = some_scales(svf)
    with svf.per_example(scales) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        outer = logits(lm)
        with svf.merged({}):
            assert torch.equal(logits(lm), logits(original()))  # matrices that a state leaves out are the base's
        with svf.per_example({name: states[:1] for name, states in scales.items()}) as other:
            other(torch.tensor([0, 0, 0, 0, 0]))
            assert not torch.allclose(logits(lm)[1], outer[1], atol=0.1)
        assert torch.equal(logits(lm), outer)
    with svf.merged(state_of(scales, 0)):
        outer = logits(lm)
        with svf.merged(state_of(scales, 1)):
            assert not torch.allclose(logits(lm), outer, atol=0.1)
        assert torch.equal(logits(lm), outer)


# Scales that do not fit


def test_a_batch_that_the_index_does_not_fit_is_no_broadcast():
    lm, svf = adapted()
    with svf.per_example(some_scales(svf)) as select:
        for index in ([0], [0, 1]):
            select(torch.tensor(index))
            with pytest.raises(ValueError, match=rf"states of {len(index)} examples, .* shape \(5, 10, 32\); allowed"):
                logits(lm)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scales: dict(list(scales.items())[1:]), "exactly the adapted matrices"),
        (lambda scales: scales | {"elsewhere": torch.ones(3, 4)}, "exactly the adapted matrices; differing: elsewhere"),
        (
            lambda scales: {name: states[:, :1] for name, states in scales.items()},
            r"shape \(3, 1\), expected \(D, 32\)",
        ),
        (lambda scales: {name: states[0] for name, states in scales.items()}, r"shape \(32,\), expected \(D, 32\)"),
        (
            lambda scales: {name: states[: 1 + ("down" in name)] for name, states in scales.items()},
            r"number of states for every matrix; got \[1, 2\]",
        ),
    ],
    ids=["too few", "too many", "one number", "one state", "unequal"],
)
def test_scales_that_do_not_fit_are_refused_and_change_nothing(change, message):
    _, svf = adapted()
    before = shown(svf)
    with pytest.raises(ValueError, match=message), svf.per_example(change(some_scales(svf))):
        pass
    assert shown(svf) == before


# A given state


@each_architecture
def test_merged_with_a_state_is_the_state_loaded_and_merged(architecture):
    lm, svf = adapted(architecture, spread=0.1)
    state, learned, before = state_of(some_scales(svf), 0), svf.state(), shown(svf)
    with svf.merged(state):
        given = logits(lm)
        assert same_states(svf.state(), learned)
    assert shown(svf) == before
    svf.load(state)
    with svf.merged():
        assert torch.equal(logits(lm), given)


@pytest.mark.parametrize("architecture", ["llama", "llama_bias", "gpt2"])
def test_a_dtype_rounds_the_merged_weights_and_nothing_else(architecture):
    lm, svf = adapted(architecture)
    state = state_of(some_scales(svf), 0)
    with svf.merged(state):
        exact_weights = {name: layer.merged_weight for name, layer in svf.layers.items()}
        exact = logits(lm)
    with svf.merged(state, dtype=torch.bfloat16):
        for name, layer in svf.layers.items():
            assert torch.equal(layer.merged_weight, exact_weights[name].bfloat16())
        rounded = logits(lm)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("change", [lambda z: z[:-1], lambda z: z[None]], ids=["short", "stacked"])
def test_a_given_state_that_does_not_fit_is_refused_and_changes_nothing(change):
    _, svf = adapted()
    before = shown(svf)
    name, z = next(iter(state_of(some_scales(svf), 0).items()))
    with pytest.raises(ValueError, match="expected"), svf.merged({name: change(z)}):
        pass
    assert shown(svf) == before
