"""Choosing one token: frequencies are probabilities, top_p cuts the right ones, log-probs are of the whole."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from t2.policy import sampling as sampling_module
from t2.policy.sampling import BLOCK, choose
from t2.types import Sampling

LAST_UNIFORM = 1 - 2.0**-53  # the largest that torch.rand gives in float64


def spread_evenly(weights: Sequence[float], sampling: Sampling, draws: int = 4096) -> list[float]:
    """How often each token is chosen when uniform numbers are spread evenly over [0, 1)."""
    logits = torch.tensor(weights, dtype=torch.float32).log().expand(draws, -1)
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens, _ = choose(logits, uniforms, sampling)
    return (torch.bincount(tokens, minlength=len(weights)) / draws).tolist()


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (1.0, [0.2, 0.5, 0.0, 0.3]),
        (0.9, [0.2, 0.5, 0.0, 0.3]),
        (0.75, [0.0, 0.625, 0.0, 0.375]),
        (0.5001, [0.0, 0.625, 0.0, 0.375]),
        (0.4, [0.0, 1.0, 0.0, 0.0]),
        (1e-9, [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_top_p_by_hand(top_p, expected):
    got = spread_evenly([0.2, 0.5, 0.0, 0.3], Sampling(temperature=1.0, top_p=top_p))
    assert got == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("candidates", [1, 7, 40])
def test_top_p_is_that_of_the_sorted_vocabulary_however_many_tokens_are_tried_first(candidates, monkeypatch):
    logits = torch.cat([torch.randn(20, 300), 9 * torch.randn(20, 300)])  # sets of a hundred tokens, and of a few
    uniforms, sampling = torch.rand(40).double(), Sampling(temperature=1.0, top_p=0.8)
    monkeypatch.setattr(sampling_module, "CANDIDATES", 300)
    whole, _ = choose(logits, uniforms, sampling)
    monkeypatch.setattr(sampling_module, "CANDIDATES", candidates)
    assert torch.equal(choose(logits, uniforms, sampling)[0], whole)
    alone = [choose(logits[i : i + 1], uniforms[i : i + 1], sampling)[0] for i in range(40)]
    assert torch.equal(torch.cat(alone), whole)
    share, index = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    kept = (share.cumsum(dim=-1) - share) < sampling.top_p
    assert (index == whole[:, None])[kept].sum() == 40


def test_temperature_by_hand():
    got = spread_evenly([0.25, 0.5, 0.25], Sampling(temperature=0.5))
    assert got == pytest.approx([1 / 6, 4 / 6, 1 / 6], abs=1e-3)


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=12), percent=st.integers(1, 100))
def test_frequencies_are_the_probabilities_of_the_smallest_set_that_reaches_top_p(weights, percent):
    total = sum(weights)
    assume(total > 0)
    kept: list[int] = []
    for weight in sorted(weights, reverse=True):
        assume(percent == 100 or 100 * (sum(kept) + weight) != percent * total)  # on the edge rounding decides
        kept.append(weight)
        if 100 * sum(kept) > percent * total:
            break
    expected = [weight / sum(kept) for weight in kept] + [0.0] * (len(weights) - len(kept))
    got = spread_evenly(weights, Sampling(temperature=1.0, top_p=percent / 100))
    assert sorted(got, reverse=True) == pytest.approx(expected, abs=1e-3)  # which of equal tokens is kept is open
    assert all(share == 0 for share, weight in zip(got, weights, strict=True) if weight == 0)


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 7.0]), min_size=1, max_size=30),
    uniform=st.sampled_from([0.0, 5e-324, 0.5, LAST_UNIFORM]) | st.floats(0, LAST_UNIFORM),
    top_p=st.sampled_from([1.0, 1 - 2.0**-53, 0.9, 1e-12]),
)
def test_a_token_without_probability_is_never_chosen(weights, uniform, top_p):
    assume(sum(weights) > 0)
    logits = torch.tensor([weights]).log()
    tokens, log_probs = choose(
        logits, torch.tensor([uniform], dtype=torch.float64), Sampling(temperature=1.0, top_p=top_p)
    )
    assert weights[int(tokens)] > 0
    assert torch.isfinite(log_probs).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.3])
def test_log_probs_are_of_the_whole_distribution(temperature, top_p):
    logits = torch.randn(6, 9)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    tokens, log_probs = choose(logits, torch.rand(6).double(), sampling)
    whole = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    torch.testing.assert_close(log_probs, whole[torch.arange(6), tokens])


def test_greedy_ignores_the_uniform_numbers():
    logits = torch.randn(6, 9)
    for uniforms in (torch.zeros(6, dtype=torch.float64), torch.full((6,), LAST_UNIFORM, dtype=torch.float64)):
        assert torch.equal(choose(logits, uniforms, Sampling())[0], logits.argmax(dim=-1))


@pytest.mark.parametrize("size", [9, BLOCK, 3 * BLOCK + 5])
def test_rows_are_chosen_apart(size):
    logits = torch.randn(8, size)
    uniforms = torch.rand(8).double()
    for top_p in (1.0, 0.6):
        sampling = Sampling(temperature=0.8, top_p=top_p)
        together = choose(logits, uniforms, sampling)[0]
        alone = [choose(logits[i : i + 1], uniforms[i : i + 1], sampling)[0] for i in range(8)]
        assert together.tolist() == torch.cat(alone).tolist()


def test_half_precision_logits_are_chosen_in_fp32():
    logits = torch.randn(4, 9).bfloat16()
    _, log_probs = choose(logits, torch.rand(4).double(), Sampling(temperature=0.7))
    assert log_probs.dtype == torch.float32


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_the_token_is_where_the_cumulative_distribution_passes_the_uniform_number(size):
    logits = 3 * torch.randn(64, size)
    uniforms = torch.rand(64).double()
    tokens, _ = choose(logits, uniforms, Sampling(temperature=1.0))
    until = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    after = until.gather(1, tokens[:, None]).squeeze(1)
    before = after - torch.softmax(logits.double(), dim=-1).gather(1, tokens[:, None]).squeeze(1)
    assert bool(((before - 1e-6 < uniforms) & (uniforms < after + 1e-6)).all())


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST_UNIFORM])
def test_one_certain_token_is_chosen_wherever_it_stands(at, uniform):
    logits = torch.full((1, 2 * BLOCK + 1), -torch.inf).index_fill(1, torch.tensor([at]), 0.0)
    tokens, log_probs = choose(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(temperature=1.0))
    assert (tokens.item(), log_probs.item()) == (at, 0.0)
