"""Objectives against losses worked out by hand; the sum over micro-batches is the loss of the whole."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.policy.log_probs import TokenLogProbs
from t2.tasks.base import check_scores
from t2.training.objectives import RLOO, SFT, Objective, Reinforce
from t2.training.rollout import Rollout
from t2.types import Completion, Sampling

LENGTHS = [1, 2, 3, 4]
LOG_PROBS = [[-1.0], [-2.0, -3.0], [-0.5, -0.5, -1.0], [-1.0, -1.0, -1.0, -2.0]]  # sums -1, -5, -2, -5
KL = [[0.1], [0.2, 0.3], [0.0, 0.0, 0.6], [0.1, 0.1, 0.1, 0.1]]  # sums 0.1, 0.5, 0.6, 0.4
KEEP = torch.zeros(2, 2, dtype=torch.bool)
OBJECTIVES = [Reinforce, RLOO, SFT]


def padded(rows: list[list[float]], fill: float = 0.0) -> Tensor:
    return torch.tensor([row + [fill] * (4 - len(row)) for row in rows], dtype=torch.float64)


def token(kl: bool = False, fill: float = 0.0) -> TokenLogProbs:
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    log_probs = padded(LOG_PROBS, fill).requires_grad_()
    return TokenLogProbs(log_probs, mask, torch.zeros(4, 4), padded(KL, fill) if kl else None)


def rollout(advantages: list[float]) -> Rollout:
    return Rollout(
        completions=tuple(Completion((1,), (0,) * n, (0.0,) * n, "", "stop") for n in LENGTHS),
        rewards=torch.tensor(advantages),
        advantages=torch.tensor(advantages),
        temperature=1.0,
        total_samples=4,
        total_tokens=10,
        max_new_tokens=8,
    )


def select(whole: TokenLogProbs, rows: list[int], width: int = 4) -> TokenLogProbs:
    kl = None if whole.kl is None else whole.kl[rows, :width]
    return TokenLogProbs(whole.log_probs[rows, :width], whole.mask[rows, :width], whole.entropy[rows, :width], kl)


# Rewards


def test_scores_become_plus_and_minus_one():
    assert Reinforce().rewards(torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 3).bool()).tolist() == [[1, -1, 0]]


def test_the_papers_vision_reward():
    rewards = Reinforce(reward_wrong=-0.1).rewards(torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 3).bool())
    torch.testing.assert_close(rewards, torch.tensor([[1.0, -0.1, 0.45]]))


@pytest.mark.parametrize(("truncated", "expected"), [("keep", 1.0), ("wrong", -1.0), ("drop", 1.0)])
def test_reward_of_a_right_answer_that_was_cut_off(truncated, expected):
    cut = torch.tensor([[True, False]])
    rewards = Reinforce(truncated=truncated).rewards(torch.ones(1, 2), cut)
    assert rewards.tolist() == [[expected, 1.0]]


def test_rewards_refuse_flags_that_would_broadcast():
    with pytest.raises(AssertionError, match=r"\(2, 2\) against \(2, 1\)"):
        Reinforce().rewards(torch.ones(2, 2), torch.zeros(2, 1).bool())


# Advantages


def test_reinforce_takes_the_reward_itself():
    rewards = torch.tensor([[1.0, -1.0], [-0.1, 1.0]])
    assert torch.equal(Reinforce().advantages(rewards, KEEP), rewards)


def test_rloo_leaves_one_out():
    rewards = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
    expected = torch.tensor([[2.0, -1.0, -1.0], [1.0, 1.0, -2.0]])
    torch.testing.assert_close(RLOO().advantages(rewards, torch.zeros(2, 3).bool()), expected)


@given(
    rewards=st.integers(2, 6).flatmap(
        lambda g: st.lists(st.lists(st.floats(-1, 1), min_size=g, max_size=g), min_size=1, max_size=5)
    )
)
def test_rloo_advantages_of_a_prompt_sum_to_zero(rewards):
    tensor = torch.tensor(rewards, dtype=torch.float64)
    advantages = RLOO().advantages(tensor, torch.zeros_like(tensor, dtype=torch.bool))
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(len(rewards)).double(), rtol=0, atol=1e-12)


def test_rloo_does_not_mix_prompts():
    rewards = torch.tensor([[1.0, -1.0], [0.5, 0.5]])
    advantages = RLOO().advantages(rewards, KEEP)
    assert advantages[1].tolist() == [0.0, 0.0]


def test_rloo_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="samples of one prompt and got 1"):
        RLOO().check_sampling(Sampling(samples=1))
    RLOO().check_sampling(Sampling(samples=2))
    Reinforce().check_sampling(Sampling(samples=1))


def test_rloo_leaves_dropped_answers_out_of_the_baseline():
    rewards = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    truncated = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    expected = torch.tensor([[0.0, -1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # one alone has no comparison
    torch.testing.assert_close(RLOO(truncated="drop").advantages(rewards, truncated), expected)


def test_centering_subtracts_the_mean_of_the_batch():
    rewards = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert Reinforce(batch_norm="center").advantages(rewards, KEEP).tolist() == [[0.5, 0.5], [0.5, -1.5]]


def test_standardizing_gives_mean_zero_and_deviation_one():
    rewards = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    expected = torch.tensor([[0.5, 0.5], [0.5, -1.5]])  # the deviation of 1, 1, 1, -1 is exactly 1
    torch.testing.assert_close(Reinforce(batch_norm="standardize").advantages(rewards, KEEP), expected)
    torch.testing.assert_close(Reinforce(batch_norm="standardize").advantages(7 * rewards - 3, KEEP), expected)


@pytest.mark.parametrize("batch_norm", ["center", "standardize"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_equal_rewards_give_no_advantage_rather_than_nan(batch_norm, shape):
    advantages = Reinforce(batch_norm=batch_norm).advantages(torch.ones(shape), torch.zeros(shape).bool())
    assert not advantages.any()


@pytest.mark.parametrize("objective", [Reinforce, RLOO])
def test_advantages_are_clipped_on_both_sides(objective):
    rewards = torch.tensor([[1.0, -1.0]])
    advantages = objective(advantage_clip=0.5).advantages(rewards, torch.zeros(1, 2).bool())
    assert advantages.tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("truncated", "dropped"), [("keep", False), ("wrong", False), ("drop", True)])
def test_a_dropped_answer_weighs_nothing(objective, truncated, dropped):
    rewards, cut = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([[True, False, False]])
    advantages = objective(truncated=truncated).advantages(rewards, cut)
    assert bool(advantages[0, 0] == 0) is dropped
    assert advantages[0, 1] != 0


# Losses


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("length_norm", "expected"),
    [
        ("none", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 4),
        ("mean", -(1 * -1 + 1 * -5 / 2 - 1 * -2 / 3 - 2 * -5 / 4) / 4),
        ("batch_tokens", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 10),
        ("max_new_tokens", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 4 / 8),
    ],
)
def test_loss_by_hand(objective, length_norm, expected):
    loss = objective(length_norm=length_norm).loss(token(), rollout([1.0, 1.0, -1.0, -2.0]))
    assert loss.total.item() == pytest.approx(expected)
    assert loss.parts == {"policy": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("length_norm", "expected"),
    [
        ("none", 1.6 / 4),
        ("mean", (0.1 + 0.5 / 2 + 0.6 / 3 + 0.4 / 4) / 4),
        ("batch_tokens", 1.6 / 10),
        ("max_new_tokens", 1.6 / 32),
    ],
)
def test_kl_is_added_with_its_coefficient(length_norm, expected):
    advantages = rollout([1.0, 1.0, -1.0, -2.0])
    without = Reinforce(length_norm=length_norm).loss(token(), advantages).total.item()
    loss = Reinforce(length_norm=length_norm, kl_coefficient=0.2).loss(token(kl=True), advantages)
    assert loss.total.item() == pytest.approx(without + 0.2 * expected)
    assert loss.parts == {"policy": pytest.approx(without), "kl": pytest.approx(expected)}


def test_kl_without_a_coefficient_is_only_reported():
    advantages = rollout([1.0, 1.0, 1.0, 1.0])
    loss = Reinforce().loss(token(kl=True), advantages)
    assert loss.parts["kl"] == pytest.approx(0.4)
    assert loss.total.item() == pytest.approx(loss.parts["policy"])


def test_kl_pulls_on_answers_without_advantage_too():
    loss = Reinforce(kl_coefficient=1.0).loss(token(kl=True), rollout([0.0] * 4))
    assert loss.total.item() == pytest.approx(0.4)


def test_gradient_raises_the_log_prob_of_right_answers():
    tokens = token()
    Reinforce().loss(tokens, rollout([1.0, 1.0, -1.0, -1.0])).total.backward()
    expected = torch.where(tokens.mask, torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]) / 4, 0.0)
    torch.testing.assert_close(tokens.log_probs.grad, expected.double())


@pytest.mark.parametrize("length_norm", ["none", "mean", "batch_tokens", "max_new_tokens"])
def test_padding_counts_for_nothing(length_norm):
    objective, advantages = Reinforce(length_norm=length_norm, kl_coefficient=0.5), rollout([1.0, 2.0, 3.0, -1.0])
    clean, dirty = (objective.loss(token(kl=True, fill=fill), advantages).total for fill in (0.0, 1e6))
    assert dirty.item() == pytest.approx(clean.item())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("length_norm", ["none", "mean", "batch_tokens", "max_new_tokens"])
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[3, 0], [2, 1]], [[2], [0, 1, 3]]], ids=str)
def test_micro_batches_add_up_to_the_whole(objective, length_norm, parts):
    settings = objective(length_norm=length_norm, kl_coefficient=0.3)
    whole_token, split_token = token(kl=True), token(kl=True)
    advantages = rollout([1.0, 0.5, -1.0, -2.0])
    whole = settings.loss(whole_token, advantages)
    whole.total.backward()
    losses = []
    for rows in parts:
        width = max(LENGTHS[row] for row in rows)  # a micro-batch is padded to its own longest answer
        losses.append(settings.loss(select(split_token, rows, width), advantages.select(rows)))
        losses[-1].total.backward()
    assert sum(loss.total.item() for loss in losses) == pytest.approx(whole.total.item())
    for name, value in whole.parts.items():
        assert sum(loss.parts[name] for loss in losses) == pytest.approx(value)
    torch.testing.assert_close(split_token.log_probs.grad, whole_token.log_probs.grad)


def test_loss_refuses_a_mask_that_would_broadcast():
    narrow = replace(token(), mask=torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(AssertionError, match=r"mask \(4, 1\), expected \(4, 4\)"):
        Reinforce().loss(narrow, rollout([1.0] * 4))


def test_loss_refuses_another_number_of_completions():
    with pytest.raises(AssertionError, match="3 completions with"):
        Reinforce().loss(select(token(), [0, 1, 2]), rollout([1.0] * 4))


# Options


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_keep_the_protocol(objective):
    assert isinstance(objective(), Objective)
    assert objective().on_policy == (objective is not SFT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_norm": "tokens"}, r"length_norm is 'tokens'; allowed: none, mean, batch_tokens, max_new_tokens"),
        ({"truncated": "skip"}, r"truncated is 'skip'; allowed: keep, wrong, drop"),
        ({"kl_direction": "forward"}, r"kl_direction is 'forward'; allowed: policy_base, base_policy"),
        ({"batch_norm": "std"}, r"batch_norm is 'std'; allowed: none, center, standardize"),
        ({"kl_coefficient": -0.1}, r"kl_coefficient is -0\.1; allowed: 0 or above"),
        ({"reward_right": -1.0}, r"reward_right \(-1\.0\) must exceed reward_wrong \(-1\.0\)"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        Reinforce(**options)


@pytest.mark.parametrize(
    "options",
    [{"kl_coefficient": math.nan}, {"reward_wrong": math.nan}, {"advantage_clip": 0.0}, {"advantage_clip": -1.0}],
    ids=str,
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_options_that_would_spoil_training_in_silence_are_refused(objective, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        objective(**options)


# Scores


def test_good_scores_pass_unchanged():
    assert check_scores([0.0, 0.25, 1.0], "task").tolist() == [0.0, 0.25, 1.0]
    assert check_scores([0.0], "task").dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.0001, math.inf])
def test_scores_that_are_none_are_refused_with_their_place(bad):
    with pytest.raises(ValueError, match=rf"gsm8k gave the score {bad} to answer 1; a score lies in \[0, 1\]"):
        check_scores([0.5, bad, 0.5], "gsm8k")


def test_importance_weights_are_truncated():
    """Two tokens: one likelier in training by e, one by far; capped at 2."""
    training = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    completion = Completion((1,), (2, 3), (-1.5, -4.0), "", "stop")
    rollout = Rollout(
        completions=(completion,), rewards=torch.ones(1), advantages=torch.ones(1),
        temperature=1.0, total_samples=1, total_tokens=2, max_new_tokens=2,
    )  # fmt: skip
    token = TokenLogProbs(training, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), None)
    Reinforce(importance_cap=2.0).loss(token, rollout).total.backward()
    torch.testing.assert_close(training.grad, torch.tensor([[-math.exp(0.5), -2.0]]))


# Reference answers


def test_sft_is_the_likelihood_whatever_the_scores():
    rewards = SFT().rewards(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1).bool())
    assert SFT().advantages(rewards, torch.zeros(2, 1).bool()).tolist() == [[1.0], [1.0]]
    loss = SFT().loss(token(), rollout([1.0] * 4))
    assert loss.total.item() == pytest.approx((1 + 5 + 2 + 5) / 4)


@pytest.mark.parametrize("sampling", [Sampling(samples=2, temperature=1.0), Sampling(temperature=0.5)])
def test_sft_refuses_what_only_samples_have(sampling):
    with pytest.raises(ValueError, match=r"sampling.samples=1 sampling.temperature=1"):
        SFT().check_sampling(sampling)
    with pytest.raises(ValueError, match="no sampler"):
        SFT(importance_cap=2.0)
