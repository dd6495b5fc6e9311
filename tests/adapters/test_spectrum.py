"""Which singular values have a number: exact indices, groups, ties, and the choices that are refused."""

from typing import Any

import pytest
import torch
from tiny_models import adapted

from t2.adapters.spectrum import Learned, Spectrum, learned_count

S = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.0])


def chosen(s: torch.Tensor = S, number: int = 0, **settings) -> list[int]:
    return Spectrum(**settings).select("m", s, number=number).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "all"}, [0, 1, 2, 3, 4, 5]),
        ({"name": "top", "rank": 2}, [0, 1]),
        ({"name": "bottom", "rank": 2}, [4, 5]),
        ({"name": "middle", "rank": 2}, [2, 3]),
        ({"name": "middle", "rank": 3}, [1, 2, 3]),
        ({"name": "strided", "rank": 2}, [1, 4]),
        ({"name": "strided", "rank": 6}, [0, 1, 2, 3, 4, 5]),
        ({"name": "top", "share": 0.34}, [0, 1, 2]),  # a share is rounded up, so that it is never nothing
        ({"name": "top", "share": 1e-9}, [0]),
        ({"name": "energy", "share": 0.5}, [0]),  # 16 of 30.25
        ({"name": "energy", "share": 0.54}, [0, 1]),
        ({"name": "energy", "share": 1.0}, [0, 1, 2, 3, 4]),  # all of the energy without the 0
    ],
)
def test_the_indices_of_each_spectrum(settings, expected):
    assert chosen(**settings) == expected


def test_a_share_does_not_gain_one_from_rounding():
    assert 0.07 * 100 > 7
    assert Spectrum("top", share=0.07).count(100) == 7


def test_random_depends_on_the_seed_and_the_matrix_alone():
    s = torch.linspace(9, 1, 50)
    draws = [chosen(s, number, name="random", rank=5, seed=seed) for number, seed in [(0, 0), (0, 0), (1, 0), (0, 7)]]
    assert draws[0] == draws[1] == sorted(set(draws[0]))
    assert draws[0] not in draws[2:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tops", "rank": 1}, "adapter.spectrum is 'tops'.*Did you mean 'top'"),
        ({"tie": "layer"}, "adapter.tie is 'layer'.*Did you mean 'layers'"),
        ({"name": "top", "rank": 0}, "adapter.rank is 0; allowed: at least 1"),
        *[({"name": "top", "share": share}, "adapter.share is .*above 0 and at most 1") for share in (0.0, -0.1, 1.01)],
        ({"groups": 0}, "adapter.groups is 0; allowed: at least 1"),
        ({"rank": 16}, "adapter.rank is set and adapter.spectrum is 'all'"),
        ({"share": 0.5}, "adapter.share is set and adapter.spectrum is 'all'"),
        ({"name": "top"}, "either adapter.rank .* or adapter.share .*got rank=None and share=None"),
        ({"name": "top", "rank": 2, "share": 0.5}, "got rank=2 and share=0.5"),
        ({"name": "energy", "rank": 2}, "energy takes adapter.share"),
    ],
)
def test_choices_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "top", "rank": 5}, "adapter.rank is 5, and b.k has 4 singular values; allowed: 1 to 4"),
        ({"groups": 5}, "adapter.groups is 5, and 4 singular values of b.k are learned; allowed: 1 to 4"),
        ({"name": "top", "share": 0.5, "groups": 3}, "adapter.groups is 3, and 2 singular values of b.k"),
    ],
)
def test_what_a_matrix_does_not_have_is_refused_with_its_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(**settings).check({"b.q": 6, "b.k": 4})


@pytest.mark.parametrize(
    ("settings", "s"),
    [
        ({"name": "bottom", "rank": 1}, S),
        ({"name": "bottom", "rank": 1}, S.clamp_min(1e-7)),
        ({"name": "energy", "share": 0.5}, torch.zeros(3)),
    ],
)
def test_a_matrix_without_a_number_that_does_anything_is_refused(settings, s):
    with pytest.raises(ValueError, match="all chosen singular values of m are 0"):
        chosen(s, **settings)
    with pytest.raises(ValueError, match=r"adapter\.groups is 2, and 1 singular values of m"):
        chosen(name="energy", share=0.5, groups=2)


def test_groups_are_neighbours_of_nearly_one_size():
    assert Spectrum(groups=3).group_of(7).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert Spectrum().group_of(3).tolist() == [0, 1, 2]


def test_tied_matrices_have_one_name():
    names = {tie: Spectrum(tie=tie).vector_key("model.layers.3.mlp.up_proj", 8) for tie in ("none", "layers", "all")}
    assert names == {"none": "model.layers.3.mlp.up_proj", "layers": "shared.mlp.up_proj.8", "all": "shared.8"}
    assert Spectrum(tie="modules").vector_key("transformer.h.11.attn.c_attn", 4) == "shared.11.4"


def test_a_choice_is_written_as_on_a_command_line():
    assert str(Spectrum("random", share=0.25, groups=4, tie="layers", seed=3)) == (
        "spectrum=random share=0.25 groups=4 tie=layers seed=3"
    )
    assert not Spectrum("top", rank=1).is_default
    assert Spectrum(seed=3).is_default


def test_a_state_is_one_outside_and_nothing_else_is_taken():
    learned = Learned("m", torch.tensor([1, 3]), 5)
    z = learned.full(torch.tensor([1.5, 0.5]))
    assert z.tolist() == [1.0, 1.5, 1.0, 0.5, 1.0]
    assert learned.of(torch.stack([z, z])).tolist() == [[1.5, 0.5]] * 2
    z[4] = 1.0000002
    for states in (z, torch.stack([torch.ones(5), z])):
        with pytest.raises(ValueError, match=r"m: multiplier 4 is not 1.*2 of 5 .*spectrum=all"):
            learned.of(states)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"spectrum": "top", "rank": 4},
        {"spectrum": "strided", "share": 0.1},
        {"spectrum": "random", "rank": 6, "groups": 3, "tie": "layers", "seed": 5},
        {"spectrum": "energy", "share": 0.3},
        {"groups": 2, "tie": "all"},
    ],
    ids=str,
)
def test_an_experts_file_says_how_many_numbers_were_learned(settings: dict[str, Any]) -> None:
    _, svf = adapted(**settings)
    with torch.no_grad():
        for vector in svf.trainable():
            vector.add_(0.1)
    learned = None if svf.spectrum.is_default else str(svf.spectrum)
    assert learned_count(learned, svf.state()) == sum(p.numel() for p in svf.trainable())
    if learned is not None:
        assert Spectrum.parse(learned) == svf.spectrum


@pytest.mark.parametrize("text", ["", "rank=3", "spectrum=top", "spectrum=top rank=x", "spectrum=all what=1"])
def test_what_is_no_spectrum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no part of a spectrum"):
        Spectrum.parse(text)
