"""The gradient of a rollout: however it is cut into micro-batches, and where there is none to be had."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.training.objectives import RLOO, Objective
from t2.training.policy_gradient import accumulate_gradient, estimated_kl
from t2.training.rollout import Rollout
from t2.types import Example, Sampling

Adapted = tuple[LanguageModel, SVF, Rollout]


@pytest.fixture
def adapted() -> Adapted:
    """A tiny model, an adapter, and four answers to each of two prompts, the first of each the better one."""
    lm = tiny_model("llama")
    svf = SVF(modules="all", cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    sampling = Sampling(max_new_tokens=5, temperature=1.0, samples=4, seed=3)
    groups = HFGenerator(lm, svf).generate([Example("ab"), Example("cdefg")], sampling)
    flat = tuple(one for group in groups for one in group)
    advantages = torch.tensor([0.75, -0.25, -0.25, -0.25] * 2)
    return lm, svf, rollout_of(flat, advantages)


def rollout_of(completions: tuple, advantages: Tensor) -> Rollout:
    return Rollout(
        completions=completions,
        rewards=advantages,
        advantages=advantages,
        temperature=1.0,
        total_samples=len(completions),
        total_tokens=sum(len(one.token_ids) for one in completions),
        max_new_tokens=5,
    )


def gradient(
    adapted: Adapted, objective: Objective, *, with_kl: bool = False, shared: bool = True, tokens: int = 4096
) -> tuple[Tensor, int, dict[str, float]]:
    """The gradient of all z in one vector, how often there was a backward, and the metrics."""
    lm, svf, rollout = adapted
    losses = []

    def backward(loss: Tensor) -> None:
        losses.append(float(loss.detach()))
        loss.backward()

    for parameter in svf.trainable():
        parameter.grad = None
    metrics = accumulate_gradient(
        lm, svf, objective, rollout,
        with_kl=with_kl, share_prompts=shared, micro_batch_tokens=tokens, backward=backward,
    )  # fmt: skip
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in svf.trainable()]
    return torch.cat([grad.flatten() for grad in grads]), len(losses), metrics


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.3])
def test_micro_batches_add_up_to_the_whole(adapted: Adapted, shared: bool, kl_coefficient: float) -> None:
    objective = RLOO(kl_coefficient=kl_coefficient)
    with_kl = kl_coefficient > 0
    whole, once, one = gradient(adapted, objective, with_kl=with_kl, shared=shared)
    parts, often, many = gradient(adapted, objective, with_kl=with_kl, shared=shared, tokens=1)
    assert once == 1 < often
    assert float(whole.abs().max()) > 0
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)
    assert many == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_it_is_the_gradient_of_the_loss_written_out(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    found, _, metrics = gradient(adapted, RLOO())
    token = token_log_probs(lm, rollout.completions, adapter=svf, shared=False)
    loss = -(rollout.advantages[:, None] * token.log_probs * token.mask).sum() / rollout.total_samples
    wanted = torch.autograd.grad(loss, svf.trainable())
    torch.testing.assert_close(found, torch.cat([grad.flatten() for grad in wanted]), rtol=1e-4, atol=1e-7)
    assert metrics["train/policy_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)


def test_answers_without_an_advantage_change_nothing(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    halved = rollout.advantages.clone()
    halved[4:] = 0.0
    found, _, _ = gradient((lm, svf, rollout_of(rollout.completions, halved)), RLOO())
    with_kl, _, metrics = gradient((lm, svf, rollout_of(rollout.completions, halved)), RLOO(), with_kl=True)
    assert torch.equal(with_kl, found)  # what is only logged leaves no trace
    assert metrics["train/kl"] == pytest.approx(0.0, abs=1e-5)  # z = 1 is the base


@pytest.mark.parametrize("with_kl", [False, True])
def test_without_a_signal_there_is_no_gradient(adapted: Adapted, with_kl: bool) -> None:
    lm, svf, rollout = adapted
    flat = rollout_of(rollout.completions, torch.zeros(8))
    found, backwards, metrics = gradient((lm, svf, flat), RLOO(), with_kl=with_kl)
    assert backwards == 0
    assert not found.any()
    assert metrics["train/policy_loss"] == 0.0
    assert ("train/kl" in metrics) is with_kl


def test_a_kl_that_is_only_logged_is_estimated_without_bias(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    for number, parameter in enumerate(svf.trainable()):
        generator = torch.Generator().manual_seed(number)
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    objective = RLOO()
    token = token_log_probs(lm, rollout.completions, kl=objective.kl_direction, adapter=svf)
    whole = objective.loss(token, rollout).parts["kl"]
    found = [estimated_kl(lm, svf, objective, rollout, seed) for seed in range(64)]  # of one completion in eight each
    assert len({round(one, 6) for one in found}) > 4
    spread = torch.tensor(found).std() / 64**0.5
    assert sum(found) / 64 == pytest.approx(whole, abs=float(3 * spread))


def test_the_drift_is_the_largest_difference_to_sampling(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    _, _, metrics = gradient(adapted, RLOO())
    assert metrics["train/log_prob_drift"] < 1e-4
    first = rollout.completions[0]
    shifted = replace(first, log_probs=(first.log_probs[0] - 0.5, *first.log_probs[1:]))
    moved = rollout_of((shifted, *rollout.completions[1:]), rollout.advantages)
    _, _, metrics = gradient((lm, svf, moved), RLOO())
    assert math.isclose(metrics["train/log_prob_drift"], 0.5, abs_tol=1e-3)
