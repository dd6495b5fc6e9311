"""FLOPs of an update, and where the time of a step went."""

from __future__ import annotations

import time

import pytest
import torch
from tiny_models import IDS, original, tiny

from t2.training.throughput import UpdateMeter, multiplied_weights, time_metrics


def test_a_weight_counts_where_a_token_is_multiplied_with_it() -> None:
    untied = original("llama").model
    total = sum(p.numel() for p in untied.parameters())
    assert multiplied_weights(untied) == total - untied.get_input_embeddings().weight.numel()
    tied = original("llama_bias").model
    assert multiplied_weights(tied) == sum(p.numel() for p in tied.parameters())


def test_a_backward_pass_doubles_the_flops() -> None:
    lm = tiny()
    meter = UpdateMeter(lm)
    assert meter.peak is None, "that of a CPU is not known"
    with meter():
        lm.model(input_ids=IDS)
    assert meter.metrics().keys() == {"seconds/forward_backward"}
    weights = multiplied_weights(lm.model)
    meter.peak = 10**12
    for context, flops in ((torch.enable_grad(), 4), (torch.no_grad(), 2)):
        with context, meter():
            lm.model(input_ids=IDS)
        mfu = meter.metrics()["train/mfu"]
        assert mfu == pytest.approx(flops * weights * IDS.numel() / meter.seconds / 10**12)


def test_the_wait_is_the_trainers() -> None:
    """Of completions sampled at once it is all that they took; of those sampled ahead, what was left of it."""
    sampling = {"rollout": 4.0, "score": 0.5, "wait": 1.0, "weight_sync": 0.25}
    step = {"rollout": 4.0, "score": 0.5, "wait": 1.0, "update": 2.0}
    now = time_metrics(sampling, step, 100, start=time.perf_counter() - 10)
    assert now["seconds/rollout_wait"] == 5.5
    assert now["seconds/weight_sync"] == 0.25
    assert now["rollout/tokens_per_second"] == pytest.approx(20)
    assert now["train/tokens_per_second"] == pytest.approx(10, rel=0.01)
    ahead = time_metrics(sampling, {"rollout_wait": 0.1, "update": 2.0}, 100, start=time.perf_counter() - 10)
    assert (ahead["seconds/rollout_wait"], ahead["seconds/rollout"], ahead["seconds/update"]) == (0.1, 4.0, 2.0)
    none = time_metrics({"wait": 2.0}, {"wait": 2.0}, 100, start=time.perf_counter())  # another rank had all prompts
    assert (none["seconds/rollout_wait"], none["rollout/tokens_per_second"]) == (2.0, 50.0)
