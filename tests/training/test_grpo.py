"""GRPO against TRL's loss and formulas, at one update and at several, and where rewards are equal."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from training_run import fit, flat, make_module

from t2.policy.log_probs import TokenLogProbs
from t2.run.metrics_file import read_metrics
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.grpo import GRPO
from t2.training.objectives import RLOO, Objective, Reinforce
from t2.training.rollout import Rollout
from t2.types import Completion, Sampling

LENGTHS = [1, 2, 3, 4, 4, 2]
BUDGET = 8
REWARDS = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]]).double()
MASK = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
KEPT = torch.zeros(2, 3).bool()


def numbers(seed: int, spread: float = 1.0) -> Tensor:
    """Log-probs (N, T), 0 where padded."""
    drawn = spread * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * MASK


OLD = -numbers(0).abs()
NEW = OLD + numbers(1, spread=0.3)  # ratios on both sides of both bounds


def rollout(advantages: Tensor, old: Tensor | None = None) -> Rollout:
    one = Rollout(
        completions=tuple(Completion((1,), (0,) * n, (0.0,) * n, "", "stop") for n in LENGTHS),
        rewards=REWARDS.flatten(),
        advantages=advantages.flatten(),
        temperature=1.0,
        total_samples=6,
        total_tokens=sum(LENGTHS),
        max_new_tokens=BUDGET,
    )
    return one if old is None else one.after_update({n: old[n][MASK[n]] for n in range(6)})


def gradient(objective: Objective, advantages: Tensor, log_probs: Tensor, old: Tensor | None) -> tuple[Tensor, Any]:
    leaf = log_probs.clone().requires_grad_()
    loss = objective.loss(TokenLogProbs(leaf, MASK, torch.zeros(6, 4), None, OLD), rollout(advantages, old))
    loss.total.backward()
    return leaf.grad, loss


def trl(trainer: str, advantages: Tensor, **settings: Any) -> tuple[Tensor, Tensor, dict[str, list[float]]]:
    """TRL's own `_compute_loss` on the same tensors, called on what it reads of a trainer: loss, gradient, metrics."""
    module = pytest.importorskip(f"trl.trainer.{trainer.lower()}_trainer")
    leaf = NEW.clone().requires_grad_()
    read = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros(6, 4), None),
        **dict.fromkeys(("aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"), False),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        current_gradient_accumulation_steps=1,
        max_completion_length=BUDGET,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
        **settings,
    )
    inputs = {
        "prompt_ids": torch.ones(6, 1),
        "prompt_mask": torch.ones(6, 1),
        "completion_ids": torch.zeros(6, 4),
        "completion_mask": MASK.long(),
        "advantages": advantages.flatten(),
        "old_per_token_logps": OLD,
        "old_logps": OLD.sum(dim=1),
        "num_items_in_batch": torch.tensor(sum(LENGTHS)),
    }
    loss = getattr(module, f"{trainer}Trainer")._compute_loss(read, None, inputs)
    loss.backward()
    return loss.detach(), leaf.grad, read._metrics["train"]


@pytest.mark.parametrize(
    ("loss_type", "length_norm", "epsilon_high"),
    [("grpo", "mean", 0.2), ("dapo", "batch_tokens", 0.28), ("dr_grpo", "max_new_tokens", 0.2)],
)
def test_loss_gradient_and_clipped_tokens_are_trls(loss_type: str, length_norm: Any, epsilon_high: float) -> None:
    objective = GRPO(length_norm=length_norm, epsilon_high=epsilon_high)
    advantages = objective.advantages(REWARDS, KEPT)
    found, loss = gradient(objective, advantages, NEW, OLD)
    wanted, slope, metrics = trl("GRPO", advantages, loss_type=loss_type, epsilon_low=0.2, epsilon_high=epsilon_high)
    torch.testing.assert_close(loss.total.detach(), wanted)
    torch.testing.assert_close(found, slope)
    assert 0 < loss.parts["clipped"] / sum(LENGTHS) == pytest.approx(metrics["clip_ratio/region_mean"][0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls(scale: Any) -> None:
    """trl 1.16, trl/trainer/grpo_trainer.py, lines 2765 to 2787, stated again: it is in the middle of a long method."""
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = REWARDS.flatten()
    std = nanstd(REWARDS, dim=1).repeat_interleave(3, dim=0) if scale == "group" else nanstd(rewards).expand_as(rewards)
    wanted = rewards - torch.nanmean(REWARDS, dim=1).repeat_interleave(3, dim=0)
    wanted = wanted if scale == "none" else wanted / (std + 1e-4)
    torch.testing.assert_close(GRPO(scale=scale).advantages(REWARDS, KEPT).flatten(), wanted)


def test_rloo_is_trls_at_its_first_update() -> None:
    """Advantages by rloo_trainer.py, lines 1686 to 1690 of trl 1.16; the gradient by its own `_compute_loss`."""
    advantages = RLOO().advantages(REWARDS, KEPT)
    torch.testing.assert_close(advantages, REWARDS - (REWARDS.sum(dim=1, keepdim=True) - REWARDS) / 2)
    found, _ = gradient(RLOO(), advantages, OLD, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "NEW", OLD)
        _, slope, _ = trl("RLOO", advantages, epsilon_low=0.2, epsilon_high=0.2)
    torch.testing.assert_close(found, slope * MASK)


@pytest.mark.parametrize("length_norm", ["none", "mean", "batch_tokens", "max_new_tokens"])
def test_at_one_update_it_is_the_policy_gradient(length_norm: Any) -> None:
    """Also where the sampler's log-probs are others than training's, and with their importance weights."""
    advantages = GRPO().advantages(REWARDS, KEPT)
    for cap in (None, 1.1):
        found, loss = gradient(GRPO(length_norm=length_norm, importance_cap=cap), advantages, NEW, None)
        wanted, _ = gradient(Reinforce(length_norm=length_norm, importance_cap=cap), advantages, NEW, None)
        torch.testing.assert_close(found, wanted)
        assert loss.parts["clipped"] == 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("score", [0.7, 1 / 3])
def test_equal_rewards_have_advantages_of_exactly_zero(scale: Any, score: float) -> None:
    scores = torch.tensor([[score] * 6, [score] * 5 + [score + 1e-8], [0.0, 1.0] * 3])
    advantages = GRPO(scale=scale).advantages(GRPO().rewards(scores, scores < -1), scores < -1)
    assert torch.equal(advantages[:2], torch.zeros(2, 6).double())
    assert bool((advantages[2] != 0).all())


def test_dropped_completions_do_not_count() -> None:
    cut = torch.tensor([[False, False, True], [True, True, False]])
    advantages = GRPO(truncated="drop").advantages(REWARDS, cut)
    rest = GRPO().advantages(REWARDS[:1, :2], KEPT[:1, :2])
    torch.testing.assert_close(advantages, torch.tensor([[*rest[0], 0.0], [0.0] * 3]).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "std"}, "objective.scale is 'std'; allowed: batch, group, none"),
        ({"epsilon_low": 0.0}, r"epsilon_low is 0\.0; allowed: above 0"),
        ({"epsilon_high": math.nan}, "epsilon_high is nan"),
        ({"updates_per_rollout": 0}, "updates_per_rollout is 0; allowed: at least 1"),
        ({"length_norm": "tokens"}, "length_norm is 'tokens'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPO(**options)


def test_samples_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="objective=grpo compares samples of one prompt and got 1"):
        GRPO().check_sampling(Sampling(temperature=1.0))


def test_several_updates_resume_at_the_same_numbers(tmp_path: Path) -> None:
    """Updates are no training steps: of the run's six there are six, each of three updates, and checkpoints between."""
    tight = GRPO(updates_per_rollout=3, epsilon_low=1e-3, epsilon_high=1e-3)
    modules = [make_module(objective=tight, lr=2e-2) for _ in range(3)]
    whole, first, second = modules
    assert fit(whole, tmp_path / "whole").global_step == 6
    fit(first, tmp_path / "parts", steps=3)
    fit(second, tmp_path / "parts", ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert max(float(row.get("train/clipped_share", 0)) for row in rows.values()) > 0
    assert max(float(row.get("train/log_prob_drift", 0)) for row in rows.values()) < 1e-3  # of the first update
    again = read_metrics(tmp_path / "parts" / "metrics.csv")
    assert {step: row.get("rollout/tokens_total") for step, row in again.items()} == {
        step: row.get("rollout/tokens_total") for step, row in rows.items()
    }
    once = make_module(objective=replace(tight, updates_per_rollout=1), lr=2e-2)
    fit(once, tmp_path / "once")
    assert not torch.equal(flat(once), flat(whole))
