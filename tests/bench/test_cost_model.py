"""The documentation holds the cost model's tables; what they count is checked in tests/costs."""

from __future__ import annotations

import re

import cost_model
import pytest
from conftest import ROOT

from t2.costs.gpus import gpus
from t2.costs.step import Work, memory


@pytest.mark.parametrize("rank", [None, 16])
def test_the_page_holds_the_table(rank: int | None) -> None:
    table = cost_model.report(["135m", "1b", "8b", "70b"], Work(rank=rank, merged_bytes=None), gpus()["h100"])
    assert f"```text\n{table}\n```" in (ROOT / "docs" / "cost.md").read_text()


@pytest.mark.parametrize("modules", ["all", "mlp"])
def test_the_page_on_one_gpu_counts_the_same(modules: str) -> None:
    parts = memory(cost_model.shape("8b", modules), Work())
    held = (parts["weights"] + parts["factors"]) / 1e9
    page = (ROOT / "docs" / "one-gpu.md").read_text()
    (line,) = re.findall(rf"^modules={modules}(?: \(default\))? +[0-9].*", page, re.M)
    alone, with_merged = line.split()[-3:-1]
    assert f"{held:.1f}" == alone
    assert f"{held + parts['merged'] / 1e9:.1f}" == with_merged
