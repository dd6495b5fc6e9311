"""bench/rollout.py on the tiny model: every system gives as many tokens, and the table has its ratios."""

from __future__ import annotations

import importlib
import json

import pytest

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
rollout = importlib.import_module("rollout")

SMALL = ["--model", "tiny", "--prompts", "2", "--samples", "3", "--new-tokens", "4", "--repeats", "1"]


@pytest.mark.parametrize("system", ["generate", "t2_hf", "t2_hf_bf16"])
def test_a_system_in_this_process_writes_its_row(system, tmp_path):
    out = tmp_path / "row.json"
    rollout.main([*SMALL, "--one", system, "--output", str(out)])
    row = json.loads(out.read_text())
    assert (row["system"], row["status"], row["tokens"]) == (system, "measured", 2 * 3 * 4)
    assert len(row["seconds"]) == len(row["sync_seconds"]) == 1
    assert (row["drift"] is None) == (system == "generate")


def test_fp32_agrees_with_the_trainer_and_bf16_less(tmp_path):
    drift = {}
    for system in ("t2_hf", "t2_hf_bf16"):
        out = tmp_path / f"{system}.json"
        rollout.main([*SMALL, "--one", system, "--output", str(out)])
        drift[system] = json.loads(out.read_text())["drift"]["max"]
    assert drift["t2_hf"] < 1e-4 < drift["t2_hf_bf16"]


def test_the_table_has_ratios_to_both_references():
    rows = [
        {
            "system": name,
            "status": "measured",
            "seconds": [spent],
            "sync_seconds": [0.1],
            "tokens": 100,
            "drift": None,
        }
        for name, spent in (("generate", 4.0), ("t2_hf", 2.0), ("t2_vllm", 1.0))
    ]
    lines = rollout.table([*rows, {"system": "t2_vllm_bf16", "status": "not installed"}]).splitlines()
    assert [line.split()[4:6] for line in lines[1:4]] == [["1.00", "0.50"], ["2.00", "1.00"], ["4.00", "2.00"]]
    assert lines[4].split() == ["t2_vllm_bf16", "not", "installed"]
