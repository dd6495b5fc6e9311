"""The optimizer's schedule and its refusal of steps that are not finite."""

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from t2.training.optimizer import OptimizerSettings, clipped_step


def build(parameter: nn.Parameter, **settings):
    adamw, schedule = OptimizerSettings(**settings).build([parameter], total_steps=10)
    return LightningOptimizer(adamw), schedule


def lightning_step(optimizer, schedule, parameter, clip_norm=1.0):
    optimizer.step = optimizer.optimizer.step  # without a trainer
    return clipped_step(optimizer, schedule, [parameter], clip_norm)


def test_the_logged_learning_rate_is_that_of_the_step():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer, schedule = build(parameter, lr=1.0, warmup_steps=1)
    for expected in (0.5, 1.0):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor([1.0, -1.0])
        assert lightning_step(optimizer, schedule, parameter)["train/lr"] == expected
        torch.testing.assert_close(
            (parameter - before).detach().abs(), torch.full((2,), expected)
        )  # Adam's first steps


@pytest.mark.parametrize(("warmup_steps", "said"), [(9, False), (10, True)])
def test_a_warm_up_as_long_as_the_run_is_said(caplog, warmup_steps, said):
    settings = OptimizerSettings(lr=1.0, warmup_steps=warmup_steps)
    settings.build([nn.Parameter(torch.zeros(2))], total_steps=10)
    assert (max(settings.scale(step, 10) for step in range(10)) < 1) is said
    assert ("warmup_steps is 10 and steps 10: the learning rate never reaches 1." in caplog.text) is said


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    parameter = nn.Parameter(torch.zeros(2))
    optimizer, schedule = build(parameter, lr=1.0)
    parameter.grad = torch.tensor([1.0, bad])
    with pytest.raises(FloatingPointError, match=r"gradient of 1 of 1 matrices .* Lower optimizer.lr"):
        lightning_step(optimizer, schedule, parameter)
    assert torch.equal(parameter.detach(), torch.zeros(2))
    assert not optimizer.optimizer.state


def test_a_step_to_infinity_is_refused():
    parameter = nn.Parameter(torch.tensor([3.4e38, 0.0]))
    optimizer, schedule = build(parameter, lr=1e37)
    parameter.grad = torch.tensor([-1.0, -1.0])
    with pytest.raises(FloatingPointError, match="made 1 of 1 vectors NaN or infinite"):
        lightning_step(optimizer, schedule, parameter)
