"""Members of a population: their states, and that each completes as it would alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import adapt, adapted, random_state, same_states, stacked, tiny, token_ids

from t2.policy.hf import HFGenerator
from t2.training.population import Population, PopulationGenerator
from t2.types import Example, Sampling

ADAPTERS: list[dict[str, Any]] = [
    {},
    {"parametrization": "sigmoid_nuclear"},
    {"spectrum": "top", "rank": 4},
    {"groups": 2, "tie": "layers"},
]
EXAMPLES = [Example(prompt="x" * n) for n in (3, 12, 7)]
GREEDY = Sampling(max_new_tokens=8)
SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, samples=2, seed=5)


@pytest.mark.parametrize("settings", ADAPTERS, ids=str)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_each_member_completes_as_its_state_does_alone(settings: dict[str, Any], sampling: Sampling) -> None:
    """With the same random numbers for all members, whatever the batches and however many states are held."""
    lm, svf = adapted(ends=True, **settings)
    before = [parameter.clone() for parameter in svf.trainable()]
    population = Population(svf, 4, 0.2, seed=1, step=2)
    found = [
        PopulationGenerator(HFGenerator(lm, svf, batch_rows=rows), population, held).generate(EXAMPLES * 4, sampling)
        for rows, held in ((64, None), (5, 3))
    ]
    assert all(torch.equal(one, other) for one, other in zip(svf.trainable(), before, strict=True))
    states = population.states(range(4))
    assert any(not torch.equal(z[0], z[1]) for z in states.values())
    for member in range(4):
        state = {name: z[member] for name, z in states.items()}
        alone = HFGenerator(lm, svf).with_state(state).generate(EXAMPLES, sampling)
        for one in found:
            assert token_ids(one[3 * member : 3 * (member + 1)]) == token_ids(alone)


@pytest.mark.parametrize("settings", ADAPTERS, ids=str)
def test_states_are_those_of_the_perturbed_numbers(settings: dict[str, Any]) -> None:
    svf, other = adapt(tiny(), **settings), adapt(tiny(), **settings)
    population = Population(svf, 4, 0.2, seed=1, step=0)
    with torch.no_grad():
        for parameter, noise in zip(other.trainable(), population.noise(1), strict=True):
            parameter -= 0.2 * noise
    wanted = stacked(other.state())
    assert same_states(population.states([3]), wanted)
    assert {len(z) for z in population.states([0, 3, 1]).values()} == {3}
    assert same_states({name: z[1:2] for name, z in population.states([0, 3, 1]).items()}, wanted)


def test_noise_is_a_function_of_seed_step_and_pair() -> None:
    svf = adapt(tiny())
    drawn = [
        torch.cat(Population(svf, 4, sigma, seed, step).noise(pair))
        for sigma, seed, step, pair in [(0.1, 1, 2, 0), (0.2, 1, 2, 0), (0.1, 1, 2, 1), (0.1, 1, 3, 0), (0.1, 2, 2, 0)]
    ]
    assert torch.equal(drawn[0], drawn[1])
    for other in drawn[2:]:
        assert abs(float(torch.corrcoef(torch.stack([drawn[0], other]))[0, 1])) < 0.25
    assert float(drawn[0].std()) == pytest.approx(1.0, abs=0.15)


def test_the_adapter_is_put_back_where_a_state_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    svf = adapt(tiny(), spread=0.1)
    before = svf.state()

    def broken() -> None:
        raise RuntimeError("no state")

    with monkeypatch.context() as patch:
        patch.setattr(svf, "state", broken)
        with pytest.raises(RuntimeError, match="no state"):
            Population(svf, 2, 0.2, 0, 0).states([0])
    assert same_states(svf.state(), before)


def test_running_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, svf = adapted()

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lm, "next_logits", full)
    one = PopulationGenerator(HFGenerator(lm, svf), Population(svf, 2, 0.1, 0, 0))
    with pytest.raises(torch.OutOfMemoryError, match=r"Lower generation\.batch_rows.*objective\.population_rows"):
        one.generate(EXAMPLES * 2, GREEDY)


def test_draws_are_those_of_the_example_that_is_named() -> None:
    lm, svf = adapted(ends=True)
    state = random_state(svf)
    twice = HFGenerator(lm, svf).with_per_example_scales(lambda _: stacked(state), [0, 0, 0], [0, 0, 1])
    first, second, third = twice.generate([EXAMPLES[0]] * 3, SAMPLED)
    assert token_ids([first]) == token_ids([second])
    assert token_ids([first]) != token_ids([third])
