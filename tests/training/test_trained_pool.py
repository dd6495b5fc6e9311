"""`strategy=` of train.py: the trained expert, by itself or in a pool, is scored with the strategy after training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from script_errors import error_of

from t2.experts.expert import Expert

SMOKE = ("experiment=smoke", "logger=csv")


def results_of(run: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_a_sweep_over_strategies_has_a_run_each(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    run_script("train", "-m", *SMOKE, "strategy=prompt,base", f"hydra.sweep.dir={tmp_path}")
    prompt, base = (results_of(tmp_path / str(number)) for number in range(2))
    assert prompt["strategy"] == "prompt"
    assert prompt["scores"]["chain_sum"].keys() == {"base", "expert", "prompt"}
    assert prompt["scores"]["chain_sum"]["prompt"]["n"] == 4  # the examples that validation had
    assert prompt["paired"]["chain_sum"].keys() == {"expert", "prompt"}
    assert prompt["experts"] == ["chain_sum"]
    assert prompt["confusion"]["prompt"]["labels"] == ["chain_sum", "other"]
    assert (tmp_path / "0" / "confusion_prompt.png").is_file()
    assert base["strategy"] == "base"
    assert base["scores"]["chain_sum"].keys() == {"base", "expert"}
    assert prompt["headline"] == prompt["scores"]["chain_sum"]["expert"]["mean"]


def test_a_pool_is_beside_the_trained_expert(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    run_script("train", *SMOKE, "steps=1", f"hydra.run.dir={tmp_path / 'products'}", "task=products")
    trained = Expert.load(tmp_path / "products" / "expert.safetensors")
    changed = replace(trained, scales={module: 1.1 * z for module, z in trained.scales.items()})
    changed.save(tmp_path / "products" / "expert.safetensors")  # a random model learns no products
    pool = f"+experts={{_target_: t2.experts.pool.ExpertPool.load, experts: {{products: {tmp_path / 'products'}}}}}"
    run_script("train", *SMOKE, "steps=1", "strategy=uniform", pool, f"hydra.run.dir={tmp_path / 'sum'}")
    results = results_of(tmp_path / "sum")
    assert results["experts"] == ["products", "chain_sum"]
    assert results["mixing_weights"]["chain_sum"]["uniform"] == {"products": 0.5, "chain_sum": 0.5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experts=smollm2_135m"], "give strategy=, too"),
        (
            ["adapter=lora", "strategy=prompt"],
            "multipliers z that could be mixed, which strategy=",
        ),
        (["experts=smollm2_135m", "strategy=prompt"], "tiny"),  # experts of another model: before training
        (["strategy=few_shot", "shots=100000"], "Lower shots"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(
    overrides: list[str], message: str, tmp_path: Path, run_script: Callable[..., Any],
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shown = error_of(
        lambda: run_script("train", *SMOKE, *overrides, f"hydra.run.dir={tmp_path}"), caplog, capsys
    )  # fmt: skip
    assert message in shown
    assert not (tmp_path / "expert.safetensors").exists()
