"""The plan divides what the cost model counts, and the documentation holds its tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT
from cost_model import GPUS, SHAPES, Work, memory
from scale_plan import PLANS, Plan, held, needed, report, seconds

H100 = GPUS["h100"]
WORK = Work(prompts=16, recompute=True)
ONE, SHARDED = Plan("70b", 1, 1, "one", ""), Plan("70b", 1, 8, "fsdp", "")


@pytest.mark.parametrize("prompts", [16, 256])
def test_the_page_holds_the_tables(prompts: int) -> None:
    assert f"```text\n{report(prompts, None, H100)}\n```" in (ROOT / "docs" / "scale.md").read_text()


def test_every_plan_of_the_page_fits() -> None:
    for plan in PLANS:
        assert needed(plan, replace(WORK, recompute="recompute" in plan.typed)) < H100.memory_bytes


def test_shards_add_up_to_the_model_but_for_what_every_gpu_holds() -> None:
    whole, part = held(ONE, WORK), held(SHARDED, WORK)
    parts = memory(SHAPES["70b"], WORK)
    assert whole["frozen"] == parts["weights"] + parts["factors"]
    outside = 2 * (2 * SHAPES["70b"].head + SHAPES["70b"].hidden)
    assert 8 * (part["frozen"] - outside) == pytest.approx(whole["frozen"] - outside)


def test_a_second_machine_halves_the_update_and_not_the_decoding() -> None:
    """Blocks travel within a machine, for each token: more of them at once would not wait less."""
    work = replace(WORK, prompts=256)
    one, two = (seconds(replace(SHARDED, machines=machines), work, H100) for machines in (1, 2))
    assert two["update"] == pytest.approx(one["update"] / 2)
    few = [seconds(replace(SHARDED, machines=machines), WORK, H100)["rollout"] for machines in (1, 2)]
    assert few[0] == few[1]
