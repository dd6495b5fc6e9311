"""The bench of a mixture's step: all systems take the same step, and an unknown setting is refused."""

from __future__ import annotations

import moe_step
import pytest

TINY = ["hidden=64", "layers=1", "experts=4", "width=32", "tokens=32", "rank=4", "turns=1"]


def test_it_prints_a_line_for_each_system(capsys: pytest.CaptureFixture[str]) -> None:
    moe_step.main(TINY)
    lines = capsys.readouterr().out.splitlines()
    counts = [int(line.split()[-2].replace(",", "")) for line in lines]
    # lora: r E (n_in + n_out) of both parameters; SVF: E R of both
    assert counts == [4 * 4 * (64 + 64 + 32 + 64), 2 * 4 * 4, 4 * (64 + 32)]
    assert "1.00 of LoRA" in lines[0]


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="'depth' is no setting; allowed: hidden"):
        moe_step.main(["depth=3"])
