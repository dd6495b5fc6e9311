"""SVF with a state per example, or with one that is given: right for every example, and nothing is left behind."""

import copy
import functools

import pytest
import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import ARCHITECTURES, tiny_model

each_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
IDS = torch.randint(256, (5, 10), generator=torch.Generator().manual_seed(0))

original = functools.cache(tiny_model)


def adapted(architecture: str = "llama") -> tuple[LanguageModel, SVF]:
    lm = copy.deepcopy(original(architecture))
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    return lm, svf


def some_scales(svf: SVF, states: int = 3, spread: float = 0.3) -> dict[str, Tensor]:
    """Random states; the last one is the base."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, s in svf.singular_values.items():
        found[name] = 1 + spread * torch.randn(states, len(s), generator=generator)
        found[name][-1] = 1.0
    return found


def state_of(scales: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    return {name: rows[number] for name, rows in scales.items()}


def logits(lm: LanguageModel, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return lm.model(input_ids=ids).logits


def shown(svf: SVF) -> tuple:
    """All that a mode leaves in the adapter and its layers."""
    held = [(layer.merged_weight, layer.example_scales) for layer in svf.layers.values()]
    return svf.mode.name, svf.mode.per_example, svf.mode.index, held


# A state per example


@each_architecture
def test_an_index_says_which_state_each_example_wears(architecture):
    lm, svf = adapted(architecture)
    scales, index = some_scales(svf), [2, 0, 0, 1, 2]
    with svf.per_example(scales) as select:
        select(torch.tensor(index))
        together = logits(lm)
    for row, number in enumerate(index):
        with svf.merged(state_of(scales, number)):
            alone = logits(lm, IDS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=5e-3)


def test_states_differ_enough_to_be_told_apart():
    lm, svf = adapted()
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 2]))
        one, two, base = logits(lm, IDS[:1].expand(3, -1))
    assert min((one - two).abs().max(), (one - base).abs().max(), (two - base).abs().max()) > 0.1


def test_the_index_may_change_in_length_between_batches():
    lm, svf = adapted()
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        all_rows = logits(lm)
        select(torch.tensor([2, 0]))
        torch.testing.assert_close(logits(lm, IDS[[2, 4]]), all_rows[[2, 4]], rtol=1e-4, atol=1e-4)


@each_architecture
def test_a_row_at_one_is_the_base(architecture):
    lm, svf = adapted(architecture)
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 2, 1, 2, 0]))
        rows = logits(lm)[[1, 3]]
    torch.testing.assert_close(rows, logits(original(architecture), IDS[[1, 3]]), rtol=0, atol=5e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision_rows_are_the_factored_mode_of_each_state(architecture):
    lm = tiny_model(architecture, dtype="bfloat16")
    expected_base = logits(lm)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    scales = some_scales(svf)
    with svf.per_example(scales) as select:
        select(torch.tensor([2, 0, 1, 2, 0]))
        together = logits(lm)
    torch.testing.assert_close(together[[0, 3]], expected_base[[0, 3]], rtol=0, atol=0.05)
    for row, number in ((1, 0), (2, 1)):
        svf.load(state_of(scales, number))
        torch.testing.assert_close(together[row : row + 1], logits(lm, IDS[row : row + 1]), rtol=0, atol=0.05)


def test_half_precision_rows_feel_a_small_step():
    lm = tiny_model(dtype="bfloat16")
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    layer = next(iter(svf.layers.values()))
    x = torch.randn(2, 400, layer.input_factor.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    sizes = svf.singular_values
    step = {name: torch.stack([torch.ones(len(s)), torch.full((len(s),), 1.001)]) for name, s in sizes.items()}
    with svf.per_example(step), torch.no_grad():
        base, moved = layer(x[[0, 0]]).double()
    gain = float((moved * base).sum() / (base * base).sum()) - 1
    assert gain == pytest.approx(1e-3, rel=0.2)


# Nothing is written


@each_architecture
def test_rows_write_no_dense_weight(monkeypatch, architecture):
    lm, svf = adapted(architecture)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    held = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in tensors_of(lm).items()}
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        logits(lm)
        assert all(layer.merged_weight is None for layer in svf.layers.values())
        now = tensors_of(lm)
    assert now.keys() == held.keys()
    assert all(tensor.data_ptr() == held[name][0] for name, tensor in now.items())
    assert all(torch.equal(tensor, held[name][1]) for name, tensor in now.items())


def tensors_of(lm: LanguageModel) -> dict[str, Tensor]:
    return dict(lm.model.named_parameters()) | dict(lm.model.named_buffers())


def test_rows_leave_what_was_learned():
    lm, svf = adapted()
    svf.load(state_of(some_scales(svf), 0))
    before, learned = logits(lm), svf.state()
    with svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([1, 1, 2, 1, 2]))
        logits(lm)
    assert all(torch.equal(z, learned[name]) for name, z in svf.state().items())
    assert torch.equal(logits(lm), before)


def test_the_mode_comes_back_after_an_error():
    lm, svf = adapted()
    before = shown(svf)
    with pytest.raises(IndexError), svf.per_example(some_scales(svf)) as select:
        select(torch.tensor([0, 1, 3, 1, 0])), logits(lm)
    assert shown(svf) == before


def test_modes_within_modes_come_back_one_by_one():
    lm, svf = adapted()
    scales = some_scales(svf)
    with svf.per_example(scales) as select:
        select(torch.tensor([0, 1, 2, 1, 0]))
        outer = logits(lm)
        with svf.merged({}):
            assert torch.equal(logits(lm), logits(original("llama")))
        with svf.per_example({name: rows[:1] for name, rows in scales.items()}) as other:
            other(torch.tensor([0, 0, 0, 0, 0]))
            assert not torch.allclose(logits(lm)[1], outer[1], atol=0.1)
        assert torch.equal(logits(lm), outer)


# Rows that do not fit


def test_a_batch_that_the_index_does_not_fit_is_no_broadcast():
    lm, svf = adapted()
    with svf.per_example(some_scales(svf)) as select:
        for index in ([0], [0, 1]):
            select(torch.tensor(index))
            with pytest.raises(AssertionError, match=f"scales of {len(index)} examples, batch of shape"):
                logits(lm)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scales: dict(list(scales.items())[1:]), "exactly the adapted matrices"),
        (lambda scales: scales | {"elsewhere": torch.ones(3, 4)}, "exactly the adapted matrices; differing: elsewhere"),
        (lambda scales: {name: rows[:, :1] for name, rows in scales.items()}, r"shape \(3, 1\), expected \(D, 32\)"),
        (lambda scales: {name: rows[0] for name, rows in scales.items()}, r"shape \(32,\), expected \(D, 32\)"),
        (
            lambda scales: {name: rows[: 1 + ("down" in name)] for name, rows in scales.items()},
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
    lm, svf = adapted(architecture)
    state = state_of(some_scales(svf), 0)
    with svf.merged(state):
        given = logits(lm)
    svf.load(state)
    with svf.merged():
        assert torch.equal(logits(lm), given)


def test_merged_with_a_state_leaves_what_was_learned():
    _, svf = adapted()
    scales = some_scales(svf)
    svf.load(state_of(scales, 0))
    before = shown(svf)
    with svf.merged(state_of(scales, 1)):
        assert all(torch.equal(z, scales[name][0]) for name, z in svf.state().items())
    assert shown(svf) == before


def test_merged_within_merged_gives_the_outer_weights_back():
    lm, svf = adapted()
    scales = some_scales(svf)
    with svf.merged(state_of(scales, 0)):
        outer = logits(lm)
        with svf.merged(state_of(scales, 1)):
            assert not torch.allclose(logits(lm), outer, atol=0.1)
        assert torch.equal(logits(lm), outer)


def test_matrices_that_a_given_state_leaves_out_are_the_bases():
    lm, svf = adapted()
    svf.load(state_of(some_scales(svf), 0))
    with svf.merged({}):
        assert torch.equal(logits(lm), logits(original("llama")))


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


@pytest.mark.parametrize("change", [lambda z: z[:-1], lambda z: z[None]], ids=["short", "a row"])
def test_a_given_state_that_does_not_fit_is_refused_and_changes_nothing(change):
    _, svf = adapted()
    before = shown(svf)
    name, z = next(iter(state_of(some_scales(svf), 0).items()))
    with pytest.raises(ValueError, match="expected"), svf.merged({name: change(z)}):
        pass
    assert shown(svf) == before
