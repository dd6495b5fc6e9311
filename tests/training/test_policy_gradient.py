"""The gradient of a rollout: however it is cut into micro-batches, and where there is none to be had."""

from __future__ import annotations

import logging
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
from t2.training.policy_gradient import accumulate_gradient, warn_of_kl_floor
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
    drifts = [metrics.pop("train/log_prob_drift") for metrics in (one, many)]  # rounding itself, another one each time
    assert max(drifts) < 1e-4
    assert many == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_it_is_the_gradient_of_the_loss_written_out(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    found, _, metrics = gradient(adapted, RLOO())
    token = token_log_probs(lm, rollout.completions, adapter=svf, shared=False)
    loss = -(rollout.advantages[:, None] * token.log_probs * token.mask).sum() / rollout.total_samples
    wanted = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, svf.trainable())])
    rounding = 1e-6 * float(wanted.abs().max())  # of shared against plain rows: that of the terms, not of their sum
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=rounding)
    assert metrics["train/policy_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)


def test_answers_without_an_advantage_change_nothing(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    halved = rollout.advantages.clone()
    halved[4:] = 0.0
    found, _, _ = gradient((lm, svf, rollout_of(rollout.completions, halved)), RLOO())
    with_kl, _, metrics = gradient((lm, svf, rollout_of(rollout.completions, halved)), RLOO(), with_kl=True)
    assert torch.equal(with_kl, found)  # what is only logged changes nothing
    assert metrics["train/kl"] == pytest.approx(0.0, abs=1e-5)  # z = 1 is the base


@pytest.mark.parametrize("with_kl", [False, True])
def test_without_a_signal_there_is_no_gradient(adapted: Adapted, with_kl: bool) -> None:
    lm, svf, rollout = adapted
    flat = rollout_of(rollout.completions, torch.zeros(8))
    found, backwards, metrics = gradient((lm, svf, flat), RLOO(), with_kl=with_kl)
    assert backwards == 0
    assert not found.any()
    assert metrics["train/policy_loss"] == 0.0
    assert "train/entropy" not in metrics  # nothing was computed but the KL
    assert ("train/kl" in metrics) is with_kl


def test_the_drift_is_the_largest_difference_to_sampling(adapted: Adapted) -> None:
    lm, svf, rollout = adapted
    _, _, metrics = gradient(adapted, RLOO())
    assert metrics["train/log_prob_drift"] < 1e-4
    first = rollout.completions[0]
    shifted = replace(first, log_probs=(first.log_probs[0] - 0.5, *first.log_probs[1:]))
    moved = rollout_of((shifted, *rollout.completions[1:]), rollout.advantages)
    _, _, metrics = gradient((lm, svf, moved), RLOO())
    assert math.isclose(metrics["train/log_prob_drift"], 0.5, abs_tol=1e-3)


def estimates(adapted: Adapted, seeds: range, shared: bool) -> Tensor:
    """The KL as the log gets it, by seed."""
    lm, svf, rollout = adapted
    return torch.tensor(
        [
            accumulate_gradient(
                lm, svf, RLOO(), rollout,
                with_kl=True, share_prompts=shared, micro_batch_tokens=4096, backward=lambda _: None, seed=seed,
            )["train/kl"]
            for seed in seeds
        ]
    )  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
def test_the_kl_for_the_log_is_unbiased_over_seeds(adapted: Adapted, shared: bool) -> None:
    """Also where only the completions of one prompt have an advantage, which says nothing of the others' KL."""
    lm, svf, rollout = adapted
    svf.load({name: 1 + 0.2 * torch.randn(z.shape) for name, z in svf.state().items()})
    halved = rollout.advantages.clone()
    halved[4:] = 0.0
    _, _, exact = gradient(adapted, RLOO(kl_coefficient=1e-9), with_kl=True, shared=shared)
    found = estimates((lm, svf, rollout_of(rollout.completions, halved)), range(60), shared)
    error = float(found.std()) / 60**0.5
    assert float(found.std()) > 0.05 * exact["train/kl"]  # a sample, and not all of them
    assert abs(float(found.mean()) - exact["train/kl"]) < 3 * error


def test_the_kl_for_the_log_takes_a_fraction_of_the_updates_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_model("llama")
    svf = SVF(modules="all", cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    sampling = Sampling(max_new_tokens=5, temperature=1.0, samples=4, seed=3)
    groups = HFGenerator(lm, svf).generate([Example("x" * n) for n in range(3, 13)], sampling)
    rollout = rollout_of(
        tuple(one for group in groups for one in group), torch.tensor([0.75, -0.25, -0.25, -0.25] * 10)
    )
    tokens, honest = [], LanguageModel.hidden_states
    monkeypatch.setattr(
        LanguageModel,
        "hidden_states",
        lambda lm, ids, *args, **named: tokens.append(ids.numel()) or honest(lm, ids, *args, **named),
    )
    counts = []
    for with_kl in (False, True):
        tokens.clear()
        gradient((lm, svf, rollout), RLOO(), with_kl=with_kl)
        counts.append(sum(tokens))
    update, both = counts  # an update goes forward and backward, the estimate forward as policy and as base
    assert 0 < both - update <= 2 * 0.2 * update  # 0.15 of completions of mean length; those drawn may be longer


@pytest.mark.parametrize(
    ("dtype", "coefficient", "warns"),
    [("bfloat16", 0.1, True), ("bfloat16", 0.0, False), ("float16", 0.1, True), ("float32", 0.1, False)],
)
def test_a_kl_in_half_precision_is_told_its_floor(
    caplog: pytest.LogCaptureFixture, dtype: str, coefficient: float, warns: bool
) -> None:
    lm = tiny_model("llama", dtype=dtype)
    svf = SVF(modules="all", cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    with caplog.at_level(logging.WARNING):
        warn_of_kl_floor(lm, svf, RLOO(kl_coefficient=coefficient))
    assert ("nats per token by rounding alone" in caplog.text) is warns
    if warns:
        (told,) = [one for one in caplog.records if "nats per token" in one.getMessage()]
        assert 0 < told.args[2] < 0.1  # type: ignore[index,operator]
        assert all(bool((z == 1).all()) for z in svf.state().values())


def test_a_number_that_is_none_is_named_as_the_rollout_numbers_it(
    adapted: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, svf, rollout = adapted
    advantages = rollout.advantages.clone()
    advantages[:5] = 0.0  # so that the first completion computed is the sixth
    honest = LanguageModel.logits
    monkeypatch.setattr(LanguageModel, "logits", lambda lm, hidden: honest(lm, hidden) + float("nan"))
    with pytest.raises(ArithmeticError, match=r"token 0 in completion 5 \(prompt 1\) is nan"):
        gradient((lm, svf, rollout_of(rollout.completions, advantages)), RLOO())


def test_a_gradient_in_float16_is_that_of_float32_also_in_a_large_rollout() -> None:
    """A token's weight is 1e-5 there, and its gradient without a scale below what float16 holds with all its bits."""
    found: list[Tensor] = []
    flat: tuple = ()
    for dtype in (torch.float32, torch.float16):
        lm = tiny_model("llama")
        lm.model.half().to(dtype)  # the same weights
        svf = SVF(modules="all", cache=False, progress=False)
        svf.inject(lm.model, lm.source)
        sampling = Sampling(max_new_tokens=5, temperature=1.0, samples=4, seed=3)
        groups = HFGenerator(lm, svf).generate([Example("ab"), Example("cdefg")], sampling) if not flat else []
        flat = flat or tuple(one for group in groups for one in group)
        rollout = replace(rollout_of(flat, torch.tensor([0.75, -0.25, -0.25, -0.25] * 2)), total_samples=16_384)
        found.append(gradient((lm, svf, rollout), RLOO(length_norm="max_new_tokens"))[0])
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.01
