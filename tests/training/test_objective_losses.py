"""Losses of the objectives by hand, their options, and supervised fine-tuning."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import Tensor

from t2.policy.log_probs import TokenLogProbs
from t2.training.objectives import SFT, Objective, Reinforce
from t2.training.rollout import Rollout
from t2.types import Completion, Sampling
from tests.training.objective_cases import OBJECTIVES

LENGTHS = [1, 2, 3, 4]
LOG_PROBS = [[-1.0], [-2.0, -3.0], [-0.5, -0.5, -1.0], [-1.0, -1.0, -1.0, -2.0]]  # sums -1, -5, -2, -5
KL = [[0.1], [0.2, 0.3], [0.0, 0.0, 0.6], [0.1, 0.1, 0.1, 0.1]]  # sums 0.1, 0.5, 0.6, 0.4


def padded(rows: list[list[float]]) -> Tensor:
    """Padding that would be seen in any sum it took part in."""
    return torch.tensor([row + [1e6] * (4 - len(row)) for row in rows], dtype=torch.float64)


def token(kl: bool = False) -> TokenLogProbs:
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    return TokenLogProbs(
        padded(LOG_PROBS).requires_grad_(), mask, torch.zeros(4, 4), padded(KL) if kl else None, torch.zeros(4, 4)
    )


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
    log_probs, mask, entropy, sampled = (
        part[rows, :width] for part in (whole.log_probs, whole.mask, whole.entropy, whole.sampled)
    )
    return TokenLogProbs(log_probs, mask, entropy, kl, sampled)


# Losses


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("length_norm", "policy", "kl"),
    [
        ("none", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 4, 1.6 / 4),
        ("mean", -(1 * -1 + 1 * -5 / 2 - 1 * -2 / 3 - 2 * -5 / 4) / 4, (0.1 + 0.5 / 2 + 0.6 / 3 + 0.4 / 4) / 4),
        ("batch_tokens", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 10, 1.6 / 10),
        ("max_new_tokens", -(1 * -1 + 1 * -5 - 1 * -2 - 2 * -5) / 4 / 8, 1.6 / 32),
    ],
)
def test_loss_by_hand(objective, length_norm, policy, kl):
    policy, kl = pytest.approx(policy, rel=1e-12), pytest.approx(kl, rel=1e-12)  # nothing is rounded to 32 bits
    advantages = rollout([1.0, 1.0, -1.0, -2.0])
    loss = objective(length_norm=length_norm).loss(token(), advantages)
    assert (loss.total.item(), loss.parts) == (policy, {"policy": policy})
    pulled = objective(length_norm=length_norm, kl_coefficient=0.2).loss(token(kl=True), advantages)
    assert pulled.parts == {"policy": policy, "kl": kl}
    assert pulled.total.item() == pytest.approx(policy.expected + 0.2 * kl.expected)
    without_advantage = objective(length_norm=length_norm, kl_coefficient=1.0).loss(token(kl=True), rollout([0.0] * 4))
    assert without_advantage.total.item() == kl


def test_kl_without_a_coefficient_is_only_reported():
    tokens = token(kl=True)
    tokens.kl.requires_grad_()
    loss = Reinforce().loss(tokens, rollout([1.0] * 4))
    loss.total.backward()
    assert loss.parts["kl"] == pytest.approx(0.4)
    assert loss.total.item() == loss.parts["policy"]
    assert tokens.kl.grad is None  # nothing is computed backward through it


def test_gradient_raises_the_log_prob_of_right_completions():
    tokens = token()
    Reinforce().loss(tokens, rollout([1.0, 1.0, -1.0, -1.0])).total.backward()
    expected = torch.where(tokens.mask, torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]) / 4, 0.0)
    torch.testing.assert_close(tokens.log_probs.grad, expected.double())


def test_the_loss_has_the_precision_of_the_log_probs():
    single = select(token(), [0, 1, 2, 3])
    single = replace(single, log_probs=single.log_probs.float())
    whole = rollout([1.0] * 4)
    loss = Reinforce(length_norm="mean").loss(single, replace(whole, advantages=whole.advantages.double()))
    assert loss.total.dtype == torch.float32


def test_the_mean_of_a_completion_without_tokens_is_no_nan():
    tokens = token()
    emptied = replace(tokens, mask=tokens.mask & (torch.arange(4) > 0)[:, None])
    loss = Reinforce(length_norm="mean").loss(emptied, rollout([1.0] * 4))
    assert loss.total.item() == pytest.approx((5 / 2 + 2 / 3 + 5 / 4) / 4)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("length_norm", ["none", "mean", "batch_tokens", "max_new_tokens"])
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[3, 0], [2, 1]], [[2], [0, 1, 3]]], ids=str)
def test_micro_batches_add_up_to_the_whole(objective, length_norm, parts):
    settings = objective(length_norm=length_norm, kl_coefficient=0.3, kl_direction="base_policy")
    whole_token, split_token = token(kl=True), token(kl=True)
    advantages = rollout([1.0, 0.5, -1.0, -2.0])
    whole = settings.loss(whole_token, advantages)
    whole.total.backward()
    losses = []
    for rows in parts:
        width = max(LENGTHS[row] for row in rows)  # a micro-batch is padded to its own longest completion
        losses.append(settings.loss(select(split_token, rows, width), advantages.select(rows)))
        losses[-1].total.backward()
    assert sum(loss.total.item() for loss in losses) == pytest.approx(whole.total.item())
    for name, value in whole.parts.items():
        assert sum(loss.parts[name] for loss in losses) == pytest.approx(value)
    torch.testing.assert_close(split_token.log_probs.grad, whole_token.log_probs.grad)


def test_loss_refuses_shapes_that_would_broadcast():
    narrow = replace(token(), mask=torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(AssertionError, match=r"mask \(4, 1\), expected \(4, 4\)"):
        Reinforce().loss(narrow, rollout([1.0] * 4))
    with pytest.raises(AssertionError, match="3 completions with"):
        Reinforce().loss(select(token(), [0, 1, 2]), rollout([1.0] * 4))


def test_importance_weights_are_truncated():
    """Two tokens: one likelier in training by e, one by far; capped at 2."""
    training = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    completion = Completion((1,), (2, 3), (-1.5, -4.0), "", "stop")
    rollout = Rollout(
        completions=(completion,), rewards=torch.ones(1), advantages=torch.ones(1),
        temperature=1.0, total_samples=1, total_tokens=2, max_new_tokens=2,
    )  # fmt: skip
    token = TokenLogProbs(
        training, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), None, torch.tensor([[-1.5, -4.0]])
    )
    Reinforce(importance_cap=2.0).loss(token, rollout).total.backward()
    torch.testing.assert_close(training.grad, torch.tensor([[-math.exp(0.5), -2.0]]))


# Options


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_keep_the_protocol_and_cannot_be_edited(objective):
    made = objective()
    assert isinstance(made, Objective)
    assert made.on_policy == (objective is not SFT)
    with pytest.raises(FrozenInstanceError):
        made.kl_coefficient = 0.1
    with pytest.raises(TypeError, match="positional"):
        objective("none")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_norm": "tokens"}, r"length_norm is 'tokens'; allowed: none, mean, batch_tokens, max_new_tokens"),
        ({"truncated": "skip"}, r"truncated is 'skip'; allowed: keep, wrong, drop"),
        ({"kl_direction": "forward"}, r"kl_direction is 'forward'; allowed: policy_base, base_policy"),
        ({"kl_coefficient": -0.1}, r"kl_coefficient is -0\.1; allowed: 0 or above"),
        ({"kl_coefficient": math.nan}, "kl_coefficient is nan"),
        ({"reward_right": -1.0}, r"reward_right \(-1\.0\) must exceed reward_wrong \(-1\.0\)"),
        ({"reward_wrong": math.nan}, "must exceed reward_wrong"),
        ({"advantage_clip": 0.0}, r"advantage_clip is 0\.0; allowed: above 0, or null"),
        ({"advantage_clip": -1.0}, "advantage_clip is -1"),
        ({"advantage_clip": math.nan}, "advantage_clip is nan"),
        ({"importance_cap": -1.0}, r"importance_cap is -1\.0; allowed: above 0, or null"),  # would turn the loss around
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(objective, options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)


def test_batch_norm_is_checked_where_there_is_one():
    with pytest.raises(ValueError, match=r"batch_norm is 'std'; allowed: none, center, standardize"):
        Reinforce(batch_norm="std")


# Reference answers


def test_sft_is_the_likelihood_of_the_reference_answers():
    loss = SFT().loss(token(), rollout([1.0] * 4))
    assert loss.total.item() == pytest.approx((1 + 5 + 2 + 5) / 4)


def test_sft_refuses_what_only_samples_have():
    for sampling in (Sampling(samples=2, temperature=1.0), Sampling(temperature=0.5)):
        with pytest.raises(ValueError, match=r"sampling.samples=1 sampling.temperature=1"):
            SFT().check_sampling(sampling)
    for sampling in (Sampling(temperature=1.0), Sampling()):  # greedy decoding scores at temperature 1
        SFT().check_sampling(sampling)
    with pytest.raises(ValueError, match="no sampler"):
        SFT(importance_cap=2.0)
