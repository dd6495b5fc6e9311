"""Adapters other than SVF through the scripts: trained, scored with base and form controls, refused where they must."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from script_errors import error_of

from t2.experts.adapter_weights import AdapterWeights

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
SMALL = ("base_model=tiny", "limit=2", "sampling.max_new_tokens=2", "controls.limit=2")


def train(run_script: Run, folder: Path, *words: str) -> Path:
    run_script("train", "experiment=smoke", "logger=csv", "steps=1", f"hydra.run.dir={folder}", *words)
    return folder


def next_words(run: Path) -> list[str]:
    """The command line of evaluate.py that a finished run's log advises."""
    return shlex.split((run / "train.log").read_text().partition("Next: python evaluate.py ")[2])


@pytest.mark.parametrize("way", ["--config-dir={0}", "hydra.searchpath=[file://{0}]"])
def test_the_advised_command_has_what_an_experiment_has_set(tmp_path: Path, run_script: Run, way: str) -> None:
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "# @package _global_\ndefaults: [/experiment/smoke, override /task: fraction, _self_]\n"
        "adapter: {spectrum: top, rank: 4}\ntask: {begun: true, form: {stop: ['.']}}\n"
    )
    run = tmp_path / "run"
    own = way.format(mine.parent.parent)
    run_script("train", own, "experiment=mine", "logger=csv", "steps=1", "adapter.rank=2", f"hydra.run.dir={run}")
    words = next_words(run)
    assert {"task=fraction", "base_model=tiny", "adapter.spectrum=top", "adapter.rank=2", "task.begun=true"} < {*words}
    run_script("evaluate", *words, "controls=null", "limit=2", f"hydra.run.dir={tmp_path / 'scores'}")
    cfg = OmegaConf.load(tmp_path / "scores" / ".hydra" / "config.yaml")
    assert (cfg.task.form.stop, cfg.adapter.rank) == (["."], 2)


@pytest.mark.parametrize("choice", ["lora_qv", "vera", "steering"])
def test_it_is_trained_and_scored(tmp_path: Path, run_script: Run, choice: str) -> None:
    run = train(run_script, tmp_path / "run", f"adapter={choice}", "seed=3")
    following = next_words(run)
    assert following[:3] == ["task=chain_sum", "base_model=tiny", f"adapter={choice}"]
    weights = AdapterWeights.load(run)
    trained = json.loads((run / "results.json").read_text())
    assert trained["trainable_parameters"] == weights.parameter_count
    assert trained["adapter"] == weights.metadata.parametrization
    run_script("evaluate", *SMALL, *following, f"hydra.run.dir={tmp_path / 'scores'}")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["scores"]["chain_sum"].keys() >= {"base", "expert", "base+shots"}
    assert results["trainable_parameters"] == weights.parameter_count
    assert results["seen"]["expert"] == {"chain_sum": 0}


def test_what_does_not_fit_is_one_message(tmp_path: Path, run_script: Run, caplog, capsys) -> None:
    run = train(run_script, tmp_path / "lora", "adapter=lora")
    svf = train(run_script, tmp_path / "svf")
    for number, (words, message) in enumerate(
        (
            ([f"expert={run}", "adapter=lora", "split=val"], "allow_seen=true"),
            ([f"expert={run}"], "of another adapter than SVF"),
            ([f"expert={run}", "adapter=ia3"], "The file is of adapter=lora, and adapter=ia3 is set"),
            ([f"expert={run}", "adapter=lora_r1"], "adapter.settings.r is 1 here and 16 in the file"),
            ([f"expert={svf}", "adapter=lora"], "Set adapter=svf"),
            (["adapter=lora", "experts=smollm2_135m", "strategy=prompt"], "no multipliers z"),
        )
    ):
        caplog.clear()
        arguments = ("evaluate", *SMALL, *words, f"hydra.run.dir={tmp_path / str(number)}")
        assert message in error_of(lambda arguments=arguments: run_script(*arguments), caplog, capsys)
