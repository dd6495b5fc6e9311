"""SVF that learns part of the spectrum: states, gradients, ties, and experts that do not know of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from t2.adapters import truncated_svd
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata, apply_expert
from t2.experts.fingerprint import fingerprint_of
from t2.experts.pool import ExpertPool
from t2.training.checkpoint import check_identity, identity_of

TOP4: dict[str, Any] = {"spectrum": "top", "rank": 4}
SPECTRA = [
    TOP4,
    {"spectrum": "random", "rank": 3, "seed": 1},
    {"spectrum": "energy", "share": 0.3},
    {"spectrum": "bottom", "share": 0.1, "groups": 2},
]


def learned_state(svf: SVF, seed: int = 0, spread: float = 0.3) -> dict[str, Tensor]:
    """A random state that the adapter can hold: it moves what it learns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = [vector.clone() for vector in svf.trainable()]
        for vector in svf.trainable():
            vector.copy_(spread * torch.randn(vector.shape, generator=generator))
        state = svf.state()
        for vector, old in zip(svf.trainable(), before, strict=True):
            vector.copy_(old)
    return state


def expert_of(svf: SVF, state: dict[str, Tensor], source: str, domain: str = "math") -> Expert:
    fingerprint = fingerprint_of(svf.singular_values, svf.frobenius_norms)
    return Expert(
        state,
        ExpertMetadata(source, fingerprint, "direct", "t", domain, "", "RLOO", 1, "0", learned=str(svf.spectrum)),
    )


@each_architecture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fresh_adapter_is_the_base_bit_for_bit(architecture, dtype):
    lm = tiny(architecture, dtype=dtype)
    expected = logits(lm)
    svf = adapt(lm, **TOP4)
    assert torch.equal(logits(lm), expected)
    for mode in (svf.merged(), svf.disabled(), svf.per_example(stacked(*[svf.state()] * 5))):
        with mode:
            assert torch.equal(logits(lm), expected)


@pytest.mark.parametrize("settings", SPECTRA, ids=lambda settings: settings["spectrum"])
def test_every_mode_is_that_of_the_whole_adapter_with_one_elsewhere(settings):
    lm, part = adapted(**settings)
    state = learned_state(part)
    whole_lm, whole = adapted()
    part.load(state)
    whole.load(state)
    assert same_states(part.state(), state)
    expected = logits(whole_lm)
    assert (expected - logits(original())).abs().max() > 0.02
    torch.testing.assert_close(logits(lm), expected, rtol=1e-3, atol=5e-3)
    with part.merged(), whole.merged():
        torch.testing.assert_close(logits(lm), logits(whole_lm), rtol=1e-3, atol=5e-3)
    states = [state, learned_state(part, 1), {name: torch.ones_like(z) for name, z in state.items()}]
    with part.per_example(stacked(*states)) as select:
        select(torch.tensor([2, 0, 1, 0, 2]))
        together = logits(lm)
    for row, number in ((0, 2), (1, 0), (2, 1)):
        with part.merged(states[number]):
            torch.testing.assert_close(together[row], logits(lm)[row], rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("tie", ["none", "layers", "all"])
def test_the_gradient_of_a_shared_number_is_the_sum_over_what_it_multiplies(tie):
    part_lm, part = adapted(spectrum="top", rank=6, groups=2, tie=tie)
    whole_lm, whole = adapted()
    for lm in (part_lm, whole_lm):
        lm.model(input_ids=IDS).logits.square().mean().backward()
    expected: dict[str, Tensor] = {}
    for name, vector in zip(whole.layers, whole.trainable(), strict=True):
        kind = {"none": name, "layers": name.split(".", 3)[3], "all": ""}[tie]
        sums = vector.grad[:6].view(2, 3).sum(1)
        expected[kind] = expected.get(kind, torch.zeros(2)) + sums
    found = [vector.grad for vector in part.trainable()]
    assert [len(vector) for vector in found] == [2] * {"none": 14, "layers": 7, "all": 1}[tie]
    sums = torch.stack([*expected.values()])
    torch.testing.assert_close(torch.stack(found), sums, rtol=1e-3, atol=1e-5 * float(sums.abs().max()))


def test_tied_matrices_of_different_sizes_do_not_share():
    _, svf = adapted("llama", tie="all")
    sizes = set(svf.sizes.values())
    assert sorted(len(vector) for vector in svf.trainable()) == sorted(sizes)


# Experts do not know of it


def test_an_expert_goes_from_any_spectrum_to_the_whole_one_and_back(tmp_path: Path):
    lm, part = adapted(**TOP4)
    state = learned_state(part)
    part.load(state)
    path = expert_of(part, part.state(), lm.source).save(tmp_path / "expert.safetensors")
    read = Expert.load(path)
    assert read.metadata.learned == "spectrum=top rank=4"
    for settings in ({}, {"spectrum": "top", "rank": 8}, {"spectrum": "energy", "share": 0.99}):
        other_lm, other = adapted(**settings)
        apply_expert(other, read, source=other_lm.source)
        assert same_states(other.state(), state)
        torch.testing.assert_close(logits(other_lm), logits(lm), rtol=1e-3, atol=5e-3)


def test_a_mixture_stays_one_outside_and_others_are_refused_with_what_to_do():
    lm, part = adapted(**TOP4)
    experts = {name: expert_of(part, learned_state(part, seed), lm.source, name) for seed, name in enumerate("ab")}
    pool = ExpertPool(experts)
    pool.check(part, source=lm.source)
    mixed = pool.scales_of(torch.tensor([[[0.3], [0.9]]]))
    with part.per_example({name: z.expand(5, -1) for name, z in mixed.items()}), torch.no_grad():
        together = lm.model(input_ids=IDS).logits
    with part.merged({name: z[0] for name, z in mixed.items()}):
        torch.testing.assert_close(logits(lm), together, rtol=1e-3, atol=5e-3)
    before, foreign = part.state(), random_state(part, 3)
    for apply in (part.load, lambda state: part.merged(state).__enter__(), lambda s: next(part.merged_weights(s))):
        with pytest.raises(ValueError, match=r"multiplier 4 is not 1, .*Set adapter.spectrum=all"):
            apply(foreign)
    with pytest.raises(ValueError, match=r"Set adapter\.spectrum=all"), part.per_example(stacked(foreign)):
        pass
    assert same_states(part.state(), before)
    assert all(layer.merged_weight is None for layer in part.layers.values())


def test_shared_numbers_refuse_a_state_that_differs_where_they_are_shared():
    _, grouped = adapted(groups=2)
    with pytest.raises(ValueError, match=r"within a group.*adapter.groups=null"):
        grouped.load(random_state(grouped))
    _, tied = adapted(spectrum="top", rank=1, tie="layers")
    first, state = next(iter(tied.layers)), tied.state()
    state[first][0] = 1.5
    with pytest.raises(ValueError, match=r"share a vector.*adapter.tie=none"):
        tied.load(state)
    assert all(bool((z == 1).all()) for z in tied.state().values())


# Checkpoints


def test_a_checkpoint_holds_the_learned_numbers_and_no_others_resume_from_it():
    lm, svf = adapted(**TOP4)
    svf.load(learned_state(svf))
    saved, identity = copy.deepcopy(svf.state_dict()), identity_of(lm, svf)
    assert sum(value.numel() for value in saved.values()) == 4 * len(svf.layers)
    again_lm, again = adapted(**TOP4)
    check_identity(identity, identity_of(again_lm, again))
    again.load_state_dict(saved)
    assert same_states(again.state(), svf.state())
    with pytest.raises(ValueError, match=r"numbers of other singular values.*adapter.spectrum"):
        check_identity(identity, identity_of(*adapted(spectrum="middle", rank=4)))
    with pytest.raises(ValueError, match="names or shapes differ"):
        check_identity(identity, identity_of(*adapted(spectrum="top", rank=5)))


def test_a_shared_vector_is_in_a_checkpoint_once():
    _, svf = adapted(spectrum="top", rank=4, tie="all")
    assert [value.shape for value in svf.state_dict().values()] == [(4,)]


# Decompositions


def test_the_largest_triplets_alone_are_the_same_adapter_but_for_a_nuclear_norm(monkeypatch):
    monkeypatch.setattr(truncated_svd, "EIGENVECTOR_SHARE", 1)
    lm, part = adapted(spectrum="top", rank=4)
    whole_lm, whole = adapted(spectrum="top", rank=4, decomposition="full")
    assert all(int(s.isnan().sum()) == len(s) - 4 for s in part.singular_values.values())
    assert not any(bool(s.isnan().any()) for s in whole.singular_values.values())
    state = learned_state(part)
    expert = expert_of(part, state, lm.source)
    apply_expert(whole, expert, source=whole_lm.source)
    apply_expert(part, replace(expert, metadata=expert_of(whole, state, lm.source).metadata), source=lm.source)
    torch.testing.assert_close(logits(lm), logits(whole_lm), rtol=1e-2, atol=1e-2)
    older = ExpertPool({"a": expert, "b": expert_of(whole, learned_state(part, 1), lm.source, "b")})
    older.check(whole, source=lm.source)


# What is refused before a model is loaded, and before training


@pytest.mark.parametrize("settings", [TOP4, {"groups": 2}, {"tie": "layers"}], ids=str)
def test_sigmoid_nuclear_is_refused(settings):
    with pytest.raises(ValueError, match=r"sigmoid_nuclear needs every singular value.*parametrization=direct"):
        SVF(parametrization="sigmoid_nuclear", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spectrum": "top", "rank": 33}, r"adapter.rank is 33, and model\.layers\.0\.\S+ has 32 singular values"),
        ({"groups": 33}, r"adapter.groups is 33, and 32 singular values of model\.layers\.0"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_it_changes(settings, message):
    lm = tiny()
    with pytest.raises(ValueError, match=message):
        adapt(lm, **settings)
    assert torch.equal(logits(lm), logits(original()))
    adapt(lm)  # nothing was wrapped
