"""The optimizers on functions whose maximum is known, and the space of mixing weights at its edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import CEM, GIVEN_MEMBERS, Fitness, Generation, SearchSettings, search
from t2.experts.mixture import Mixture

OPTIMUM = torch.tensor([0.2, 1.1, 0.7], dtype=torch.float64)
each_optimizer = pytest.mark.parametrize("optimizer", ["cem", "cmaes"])


def quadratic(members: Tensor) -> list[Fitness]:
    return [Fitness(-float(((member - OPTIMUM) ** 2).sum())) for member in members]


def run(optimizer="cem", evaluate=quadratic, space=None, seed=0, **settings) -> list[Generation]:
    space = space or MixtureSpace()
    chosen = SearchSettings(optimizer, **({"population": 20, "iterations": 40} | settings))
    start = chosen.start(space, 3, 1, seed)
    return list(search(start, evaluate, space.first(3, 1), chosen.iterations, lambda m: space.repaired(m, 3)))


@each_optimizer
def test_finds_the_maximum_of_a_quadratic(optimizer):
    assert (run(optimizer)[-1].member - OPTIMUM).abs().max() < 0.02


@each_optimizer
def test_finds_a_maximum_on_the_edge_and_stays_inside(optimizer):
    seen = []

    def outward(members):
        seen.append(members)
        return [Fitness(float(member.sum())) for member in members]

    space = MixtureSpace(low=0.25, high=0.75)
    last = run(optimizer, outward, space)[-1]
    assert (last.member - 0.75).abs().max() < 1e-3
    sampled = torch.cat([seen[0][GIVEN_MEMBERS:], *(members[1:] for members in seen[1:])])
    assert float(sampled.min()) >= 0.25
    assert float(sampled.max()) <= 0.75


@each_optimizer
def test_a_seed_repeats_whatever_torchs_and_numpys_random_states_which_stay(optimizer):
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (torch.stack([one.member for one in run(optimizer, seed=seed, iterations=4)]) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()


@each_optimizer
@pytest.mark.parametrize("population", [6, 10, 17])
def test_generations_begin_with_the_base_and_uniform_or_the_best_so_far_and_fit_the_population(optimizer, population):
    seen, best = [], []

    def note(members):
        seen.append(members)
        fitness = quadratic(members)
        best.append(members[max(range(len(members)), key=fitness.__getitem__)])
        return fitness

    run(optimizer, note, MixtureSpace(low=0.4, high=0.5), population=population, iterations=6, elite_share=0.5)
    assert seen[0][0].tolist() == [0.0, 0.0, 0.0]
    assert seen[0][1].tolist() == pytest.approx([1 / 3] * 3)
    assert all(torch.equal(members[0], before) for members, before in zip(seen[1:], best[:-1], strict=True))
    assert max(map(len, seen)) == population
    assert min(map(len, seen)) >= population - 1


@each_optimizer
def test_the_best_never_gets_worse(optimizer):
    random = torch.Generator().manual_seed(1)
    known: dict[tuple[float, ...], Fitness] = {}

    def rugged(members):  # noise over the space, but always the same for the same member
        keys = [tuple(member.tolist()) for member in members]
        for key in keys:
            known.setdefault(key, Fitness(float(torch.rand(1, generator=random))))
        return [known[key] for key in keys]

    bests = [one.best for one in run(optimizer, rugged, iterations=15)]
    assert bests == sorted(bests)
    assert bests[0] >= known[0.0, 0.0, 0.0]


@each_optimizer
def test_ties_are_broken_by_likelihood_and_where_everything_is_equal_the_base_wins(optimizer):
    def tied(members):
        return [replace(one, value=1.0, likelihood=one.value) for one in quadratic(members)]

    by_value, by_likelihood = run(optimizer, iterations=8)[-1], run(optimizer, tied, iterations=8)[-1]
    assert torch.equal(by_value.member, by_likelihood.member)
    last = run(optimizer, lambda members: [Fitness(0.5)] * len(members), iterations=3)[-1]
    assert last.member.tolist() == [0.0, 0.0, 0.0]
    assert Fitness(0.5, -0.1) > Fitness(0.5, -9.0) > Fitness(0.4, -0.1)


@each_optimizer
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_fitness_that_is_no_number_is_refused(optimizer, bad):
    with pytest.raises(ValueError, match="must be finite"):
        run(optimizer, lambda members: [Fitness(bad)] * len(members))


@each_optimizer
def test_many_weights_are_searched_quickly(optimizer):
    space, settings = MixtureSpace(per_matrix=True), SearchSettings(optimizer, population=10, iterations=2)
    worth = lambda members: [Fitness(float(member.sum())) for member in members]  # noqa: E731
    *_, last = search(settings.start(space, 3, 100, 0), worth, space.first(3, 100), 2)
    assert last.member.shape == last.mean.shape == last.std.shape == (300,)


def test_cmaes_learns_from_its_own_members_alone():
    means = []
    for foreign in (0.0, 1.5):
        cma = SearchSettings("cmaes", population=8).start(MixtureSpace(), 3, 1, 0)
        members = torch.cat([torch.full((2, 3), foreign, dtype=torch.float64), cma.ask(2)])
        cma.tell(members, [Fitness(9.0), Fitness(-9.0), *quadratic(members[2:])], 2)
        means.append(cma.mean)
    assert torch.equal(*means)


def test_cem_refits_to_its_elites_as_the_authors_do_the_likelier_of_equals():
    for fitness, elites in (
        ([Fitness(float(i)) for i in range(10)], [9, 8]),
        ([Fitness(1.0, -float(i)) for i in range(10)], [0, 1]),
    ):
        start = torch.full((2,), 0.5, dtype=torch.float64)
        cem = CEM(start, MixtureSpace(0.0, 1.0), SearchSettings(population=10), seed=0)
        assert cem.std.tolist() == [0.5, 0.5]
        members = cem.ask(0)
        cem.tell(members, fitness, 0)
        assert torch.equal(cem.mean, members[elites].mean(dim=0))
        assert torch.allclose(cem.std, members[elites].std(dim=0, correction=1))


def test_cem_moves_by_its_moving_average():
    start = torch.full((2,), 0.5, dtype=torch.float64)
    cem = CEM(start, MixtureSpace(0.0, 1.0), SearchSettings(population=10, ema=0.75), seed=0)
    members = cem.ask(0)
    cem.tell(members, [Fitness(float(i)) for i in range(10)], 0)
    torch.testing.assert_close(cem.mean, 0.25 * members[8:].mean(dim=0) + 0.75 * start)
    torch.testing.assert_close(cem.std, 0.25 * members[8:].std(dim=0) + 0.75 * 0.5)


def test_the_floor_keeps_the_search_alive():
    assert float(run(std_floor=0.1)[-1].std.min()) == 0.1
    assert float(run()[-1].std.max()) < 0.02


def test_as_many_elites_as_in_the_authors_code_and_cmaes_needs_none():
    assert SearchSettings(population=32, elite_share=0.2).elites == 6
    assert SearchSettings(population=100, elite_share=0.29).elites == 29
    assert SearchSettings("cmaes", population=6, elite_share=0.1).optimizer == "cmaes"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "cma"}, "Did you mean 'cmaes'"),
        ({"population": 5}, "population is 5"),
        ({"iterations": 0}, "iterations is 0"),
        ({"elite_share": 0.0}, "elite_share is 0.0"),
        ({"elite_share": 1.5}, "elite_share is 1.5"),
        ({"population": 9, "elite_share": 0.2}, "needs 2"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"std_floor": -0.1}, "std_floor is -0.1"),
        ({"std_floor": float("nan")}, "std_floor is nan"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**settings)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "low must be below high"),
        ({"low": 2.0, "high": 1.0}, "low must be below high"),
        ({"high": float("inf")}, "low must be below high"),
        ({"low": float("nan")}, "low must be below high"),
        ({"low": -0.5, "normalize": True}, "cannot be normalized"),
        ({"rule": "dleta"}, "Did you mean 'delta'"),
    ],
)
def test_spaces_that_hold_nothing_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        MixtureSpace(**space)


@pytest.mark.parametrize(
    ("space", "member", "experts", "expected"),
    [
        (MixtureSpace(), [1.0, 2.0, 3.0], 3, Mixture.of(1, 2, 3)),
        (
            MixtureSpace(per_matrix=True, rule="paper"),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            3,
            Mixture(((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), "paper"),
        ),
        (MixtureSpace(low=-1.5), [-1.0, 0.5], 2, Mixture.of(-1.0, 0.5)),
        (  # sums to 1 for every matrix
            MixtureSpace(per_matrix=True, normalize=True),
            [0.3, 0.1, 0.3, 0.4],
            2,
            Mixture(((0.5, 0.2), (0.5, 0.8))),
        ),
    ],
)
def test_members_become_mixtures_of_their_shape(space, member, experts, expected):
    assert space.mixture(torch.tensor(member, dtype=torch.float64), experts) == expected


def test_sampled_zeros_become_uniform_matrix_by_matrix_where_they_are_normalized():
    members = torch.tensor([[0.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    assert MixtureSpace(normalize=True).repaired(members, 2).tolist() == [[0.5, 0.5], [0.5, 0.0]]
    assert torch.equal(MixtureSpace().repaired(members, 2), members)
    members = torch.tensor([[0.0, 0.6, 0.0, 0.2]], dtype=torch.float64)  # (K, M) = 2, 2
    assert MixtureSpace(normalize=True, per_matrix=True).repaired(members, 2).tolist() == [[0.5, 0.6, 0.5, 0.2]]


@pytest.mark.parametrize("rule", ["delta", "paper"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_member_of_zeros_is_the_base_under_either_rule(rule, normalize):
    space = MixtureSpace(rule=rule, normalize=normalize)
    assert space.mixture(space.first(3, 7)[0], 3) == Mixture.base(3)


def test_all_zero_samples_do_not_break_a_normalized_search():
    def greedy_for_nothing(members):
        assert bool(members[GIVEN_MEMBERS:].sum(dim=1).gt(0).all())
        return [Fitness(-float(member.sum())) for member in members]

    last = run("cem", greedy_for_nothing, MixtureSpace(low=0.0, high=0.1, normalize=True))[-1]
    assert last.best == Fitness(0.0)
