"""The documentation holds the plans' tables, and they fit; what they count is checked in tests/costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT
from scale_plan import PLANS, gigabytes, report

from t2.costs.gpus import gpus
from t2.costs.step import Work

H100 = gpus()["h100"]


@pytest.mark.parametrize("prompts", [16, 256])
def test_the_page_holds_the_tables(prompts: int) -> None:
    assert f"```text\n{report(prompts, None, H100)}\n```" in (ROOT / "docs" / "scale.md").read_text()


def test_every_plan_of_the_page_fits() -> None:
    work = Work(prompts=16, merged_bytes=None)
    for plan in PLANS:
        needed = gigabytes(plan, replace(work, recompute="recompute" in plan.typed))
        assert needed < H100.memory_bytes / 1e9
