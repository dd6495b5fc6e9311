"""Transfer: an expert on another model rank by rank, its controls, and what does not correspond."""

from __future__ import annotations

import pytest
import torch
from tiny_pool import SIZES, make_expert, singular_values

from t2.adapters.spectrum import Spectrum
from t2.experts.expert import Expert
from t2.experts.fingerprint import fingerprint_of
from t2.experts.pool import ExpertPool
from t2.experts.transfer import transfer

TARGET = {"base_model": "org/other", "fingerprint": fingerprint_of(singular_values(seed=5))}


def moved(expert: Expert | None = None, **options) -> Expert:
    return transfer(expert or make_expert(1), options.pop("shapes", SIZES), **TARGET, **options)


@pytest.mark.parametrize(("control", "expected"), [("ordered", lambda z: z), ("reversed", lambda z: z.flip(0))])
def test_ordered_keeps_every_number_and_reversed_turns_each_matrix_around(control, expected):
    before, after = make_expert(1), moved(control=control)
    assert all(torch.equal(after.scales[module], expected(z)) for module, z in before.scales.items())


def test_shuffled_keeps_each_matrix_numbers_in_an_order_of_its_own():
    before = torch.linspace(1, 2, 64)
    sizes = {"layers.0.up": 64, "layers.1.up": 64}
    after = moved(Expert(dict.fromkeys(sizes, before), make_expert(1).metadata), control="shuffled", shapes=sizes)
    one, other = after.scales.values()
    assert torch.equal(one.sort().values, before)
    assert not torch.equal(one, before)
    assert not torch.equal(one, other)


def test_random_has_the_mean_and_deviation_of_each_matrix():
    sizes = {"layers.0.up": 20_000, "layers.1.up": 20_000}
    generator = torch.Generator().manual_seed(0)
    near, far = torch.rand(2, 20_000, generator=generator)
    scales = {"layers.0.up": 1 + 0.01 * near, "layers.1.up": 3 + far}
    after = moved(Expert(scales, make_expert(1).metadata), control="random", shapes=sizes)
    for module, z in scales.items():
        assert after.scales[module].mean().item() == pytest.approx(
            z.mean().item(), abs=4 * z.std().item() / 20_000**0.5
        )
        assert after.scales[module].std().item() == pytest.approx(z.std().item(), rel=0.03)
        assert after.scales[module].max() > z.max(), "a uniform z has no tails, a Gaussian has"
    single = Expert({"layers.0.up": torch.tensor([1.5])}, make_expert(1).metadata)
    assert moved(single, control="random", shapes={"layers.0.up": 1}).scales["layers.0.up"].tolist() == [1.5]


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_a_seed_says_it_all(control):
    state = torch.random.get_rng_state()
    first, again, other = (moved(control=control, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(again.scales[module], z) for module, z in first.scales.items())
    assert any(not torch.equal(other.scales[module], z) for module, z in first.scales.items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seed_means_the_same_whatever_the_order_of_the_modules():
    expert = make_expert(1)
    other = Expert(dict(sorted(expert.scales.items(), reverse=True)), expert.metadata)
    for module, z in moved(expert, control="random", seed=1).scales.items():
        assert torch.equal(moved(other, control="random", seed=1).scales[module], z)


def test_the_metadata_are_those_of_the_new_model_and_tell_of_the_old():
    metadata = moved(
        make_expert(1, description="sums", val_before=0.1, val_after=0.9), control="shuffled", seed=4
    ).metadata
    assert (metadata.base_model, metadata.fingerprint) == (TARGET["base_model"], TARGET["fingerprint"])
    assert metadata.description == "sums (transferred from org/small, shuffled, seed 4)"
    assert (metadata.val_before, metadata.val_after) == (None, None), "measured on the old model"


def test_which_multipliers_were_learned_is_told_where_that_is_still_so():
    expert = make_expert(1, learned=str(Spectrum("top", rank=2)))
    assert moved(expert).metadata.learned == expert.metadata.learned
    for options in ({"control": "shuffled"}, {"control": "reversed"}, {"control": "random"},
                    {"resample": True, "shapes": {**SIZES, "layers.2.up": 9}}):  # fmt: skip
        other = moved(expert, **options)
        assert other.metadata.learned is None
        assert other.parameter_count == sum(len(z) for z in other.scales.values())


def test_a_transferred_expert_goes_into_a_pool_of_the_new_model():
    native = make_expert(2, singular_values(seed=5), base_model="org/other")
    assert ExpertPool({"native": native, "brought": moved()}).domains == ("native", "brought")


def test_the_expert_that_was_given_stays_as_it_was():
    before = make_expert(1)
    moved(before).scales["layers.2.q"].zero_()
    assert torch.equal(before.scales["layers.2.q"], make_expert(1).scales["layers.2.q"])


def test_resampling_interpolates_over_relative_ranks_and_leaves_matrices_that_fit_alone():
    expert = Expert({"layers.0.up": torch.tensor([1.0, 3.0, 2.0])}, make_expert(1).metadata)
    for expected in ([1.0, 2.0, 3.0, 2.5, 2.0], [1.0, 2.0]):
        found = moved(expert, resample=True, shapes={"layers.0.up": len(expected)}).scales["layers.0.up"]
        torch.testing.assert_close(found, torch.tensor(expected))
    after = moved(resample=True, shapes={**SIZES, "layers.2.up": 9})
    assert torch.equal(after.scales["layers.2.q"], make_expert(1).scales["layers.2.q"])
    assert after.scales["layers.2.up"].shape == (9,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shapes": {"layers.2.q": 3, "layers.2.up": 6, "blocks.10.up": 4}},
            r"expert's alone: layers\.10\.up\. .*model's alone: blocks\.10\.up\. Did you mean",
        ),
        (
            {"shapes": {**SIZES, "layers.11.up": 4}, "resample": True},
            r"expert's alone: none.*model's alone: layers\.11\.up",
        ),
        (
            {"shapes": {**SIZES, "layers.2.up": 9}},
            r"layers\.2\.up has 6 values.* 9 singular values.*resample=true",
        ),
        ({"control": "shuffle"}, r"'shuffle'; allowed: ordered, .*Did you mean 'shuffled'"),
    ],
)
def test_what_has_no_counterpart_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        moved(**options)
