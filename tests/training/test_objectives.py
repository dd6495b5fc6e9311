"""Objectives against losses worked out by hand; the sum over micro-batches is the loss of the whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2.training.objectives import RLOO, SFT, Reinforce
from t2.types import Sampling
from tests.training.objective_cases import OBJECTIVES

YES, NO = True, False


# Rewards


@pytest.mark.parametrize(
    ("objective", "scores", "expected"),
    [
        (Reinforce(), [1.0, 0.0, 0.5], [1.0, -1.0, 0.0]),
        (Reinforce(reward_wrong=-0.1), [1.0, 0.0, 0.5], [1.0, -0.1, 0.45]),  # the paper's for vision
        (RLOO(reward_right=3.0), [1.0, 0.0, 0.5], [3.0, -1.0, 1.0]),
        (Reinforce(truncated="wrong"), [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]),  # the first is cut off
        (Reinforce(truncated="drop"), [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
    ],
)
def test_scores_become_rewards(objective, scores, expected):
    rewards = objective.rewards(torch.tensor([scores]), torch.tensor([[YES, NO, NO]]))
    torch.testing.assert_close(rewards, torch.tensor([expected]).double(), rtol=1e-6, atol=1e-6)


def test_rewards_refuse_flags_that_would_broadcast():
    with pytest.raises(AssertionError, match=r"\(2, 2\) against \(2, 1\)"):
        Reinforce().rewards(torch.ones(2, 2), torch.zeros(2, 1).bool())


def test_dropped_completions_count_in_no_mean():
    rewards = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    for objective in (Reinforce(batch_norm="center", truncated="drop"), RLOO(truncated="drop")):
        assert torch.equal(objective.advantages(rewards, rewards < 0), torch.zeros(1, 4).double())
    centred = Reinforce(batch_norm="center", truncated="drop").advantages(rewards, torch.tensor([[YES, NO, NO, YES]]))
    torch.testing.assert_close(centred, torch.tensor([[0.0, 1.0, -1.0, 0.0]]).double())
    every = torch.ones(1, 4).bool()
    assert torch.equal(
        Reinforce(batch_norm="center", truncated="drop").advantages(rewards, every), torch.zeros(1, 4).double()
    )


# Advantages


@pytest.mark.parametrize(
    ("objective", "rewards", "expected"),
    [
        (Reinforce(), [[1.0, -1.0], [-0.1, 1.0]], [[1.0, -1.0], [-0.1, 1.0]]),  # the reward itself
        (Reinforce(batch_norm="center"), [[1.0, 1.0], [1.0, -1.0]], [[0.5, 0.5], [0.5, -1.5]]),
        (Reinforce(batch_norm="standardize"), [[1.0, 1.0], [1.0, -1.0]], [[0.5, 0.5], [0.5, -1.5]]),  # deviation 1
        (Reinforce(batch_norm="standardize"), [[4.0, 4.0], [4.0, -10.0]], [[0.5, 0.5], [0.5, -1.5]]),  # of 7 r - 3
        (Reinforce(batch_norm="standardize"), [[3.0, 1.0]], [[0.5**0.5, -(0.5**0.5)]]),
        (Reinforce(batch_norm="standardize"), [[1.0, 1.0 + 2e-8]], [[0.0, 0.0]]),  # noise is not blown up to 1
        (Reinforce(batch_norm="standardize"), [[1.0, 1.0]], [[0.0, 0.0]]),  # rather than NaN
        (Reinforce(batch_norm="standardize"), [[1.0]], [[0.0]]),
        (Reinforce(batch_norm="center"), [[1.0]], [[0.0]]),
        (RLOO(), [[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]], [[2.0, -1.0, -1.0], [1.0, 1.0, -2.0]]),
        (RLOO(), [[1.0, -1.0], [0.5, 0.5]], [[2.0, -2.0], [0.0, 0.0]]),  # prompts are not mixed
        (SFT(), [[0.0], [1.0]], [[1.0], [1.0]]),  # whatever the scores
        (Reinforce(advantage_clip=0.5), [[1.0, -1.0]], [[0.5, -0.5]]),
        (RLOO(advantage_clip=0.5), [[1.0, -1.0]], [[0.5, -0.5]]),
        (SFT(advantage_clip=0.5), [[1.0]], [[0.5]]),
    ],
)
def test_advantages(objective, rewards, expected):
    tensor = torch.tensor(rewards, dtype=torch.float64)
    advantages = objective.advantages(tensor, torch.zeros_like(tensor).bool())
    torch.testing.assert_close(advantages, torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("objective", [RLOO(), Reinforce(batch_norm="center"), Reinforce(batch_norm="standardize")])
@pytest.mark.parametrize("score", [0.7, 0.1, 1 / 3])
def test_equal_scores_give_advantages_of_exactly_zero(objective, score):
    """AdamW divides by the gradient's size, so that a rounding error of 6e-8 would move z as far as a reward does."""
    scores = torch.full((3, 6), score)  # fp32, as graders give them
    advantages = objective.advantages(objective.rewards(scores, scores.bool() & False), scores.bool() & False)
    assert advantages.dtype == torch.float64
    assert torch.equal(advantages, torch.zeros(3, 6).double())


def test_rloo_is_flat_by_the_completions_that_count():
    """A dropped completion's own reward does not make the others differ."""
    rewards, cut = torch.tensor([[0.4, 0.4, -1.0], [0.4, 1.0, -1.0]]), torch.tensor([[NO, NO, YES]] * 2)
    advantages = RLOO(truncated="drop").advantages(rewards, cut)
    assert torch.equal(advantages[0], torch.zeros(3).double())
    torch.testing.assert_close(advantages[1], torch.tensor([-0.6, 0.6, 0.0]).double(), rtol=1e-6, atol=1e-6)


@given(
    rewards=st.integers(2, 6).flatmap(
        lambda g: st.lists(
            st.lists(st.tuples(st.integers(-20, 20).map(lambda i: i / 20), st.booleans()), min_size=g, max_size=g),
            min_size=1,
            max_size=5,
        )
    ),
    dropping=st.booleans(),
)
def test_rloo_compares_with_the_other_samples_that_count(rewards, dropping):
    tensor = torch.tensor([[reward for reward, _ in row] for row in rewards], dtype=torch.float64)
    cut = torch.tensor([[flag for _, flag in row] for row in rewards])
    expected = torch.zeros_like(tensor)
    for row, flags in enumerate(cut.tolist()):
        counted = [i for i, flag in enumerate(flags) if not (flag and dropping)]
        for i in counted if len(counted) > 1 else ():  # one alone has no comparison
            expected[row, i] = tensor[row, i] - sum(tensor[row, j] for j in counted if j != i) / (len(counted) - 1)
    advantages = RLOO(truncated="drop" if dropping else "keep").advantages(tensor, cut)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


def test_rloo_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="samples of one prompt and got 1"):
        RLOO().check_sampling(Sampling(samples=1))
    with pytest.raises(AssertionError, match="G = 1 leaves nothing"):
        RLOO().advantages(torch.ones(2, 1), torch.zeros(2, 1).bool())
    RLOO().check_sampling(Sampling(samples=2, temperature=0.5))
    with pytest.raises(ValueError, match=r"all the same at sampling\.temperature=0"):
        RLOO().check_sampling(Sampling(samples=2))
    Reinforce().check_sampling(Sampling(samples=1))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("truncated", "dropped"), [("keep", False), ("wrong", False), ("drop", True)])
def test_a_dropped_completion_weighs_nothing(objective, truncated, dropped):
    rewards, cut = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([[YES, NO, NO]])
    advantages = objective(truncated=truncated).advantages(rewards, cut)
    assert bool(advantages[0, 0] == 0) is dropped
    assert advantages[0, 1] != 0
