"""Several GPUs divide what one holds and computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_model import shape

from t2.costs.gpus import gpus
from t2.costs.placement import ONE, Placement, frozen, held, seconds
from t2.costs.step import Work, memory

H100 = gpus()["h100"]
WORK = Work(prompts=16, recompute=True, merged_bytes=None)
SHARDED = Placement("fsdp", 1, 8)


def test_shards_add_up_to_the_model_but_for_what_every_gpu_holds() -> None:
    large = shape("70b")
    whole, part = (held(large, WORK, placement) for placement in (ONE, SHARDED))
    parts = memory(large, WORK)
    assert (whole["weights"], whole["factors"]) == (parts["weights"], parts["factors"])
    outside, blocks = frozen(large, WORK)
    assert outside + blocks == parts["weights"] + parts["factors"]
    assert 8 * (part["weights"] + part["factors"] - outside) == pytest.approx(blocks)


def test_a_second_machine_halves_the_update_and_not_the_decoding() -> None:
    """Blocks travel within a machine, for each token: more of them at once would not wait less."""
    large, work = shape("70b"), replace(WORK, prompts=256)
    one, two = (seconds(large, work, H100, replace(SHARDED, machines=machines)) for machines in (1, 2))
    assert two["update"] == pytest.approx(one["update"] / 2)
    few = [seconds(large, WORK, H100, replace(SHARDED, machines=machines))["decode"] for machines in (1, 2)]
    assert few[0] == few[1]
