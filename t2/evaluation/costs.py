"""Cells of tables that say what a system costs: seconds and tokens of its fit and its passes, tokens of its answers.

Tokens of fit and passes are those that went through the model (`t2.models.forward_tokens`); those of prompts and
answers are counted once each. A cell is empty where nothing was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from t2.evaluation.report import PARTS

Numbers = Mapping[str, float]
COST_HEADER = ("prompt tokens", "answer tokens", "fit", "pass 1", "pass 2")


def cost_cells(seconds: Numbers | None, tokens: Numbers | None) -> list[str]:
    """A cell for each of COST_HEADER, such as `12.3 s, 4,500 tokens` for a pass."""
    spent, through = seconds or {}, tokens or {}
    cells = [f"{through[part]:,.0f}" if part in through else "" for part in ("prompt", "completion")]
    for part in PARTS:
        known = [f"{spent[part]:.1f} s"] if part in spent else []
        known += [f"{through[part]:,.0f} tokens"] if part in through else []
        cells.append(", ".join(known))
    return cells
