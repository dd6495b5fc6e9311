"""Training that begins with an expert: what it begins with, what its results and its file say, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from script_errors import error_of

from t2.experts.adapter_weights import AdapterWeights
from t2.experts.expert import Expert
from t2.run.fetch import file_sha256

pytestmark = pytest.mark.commands
Run = Callable[..., Any]


def train(run_script: Run, folder: Path, *words: str) -> dict[str, Any]:
    run_script("train", "experiment=smoke", "logger=csv", "steps=1", f"hydra.run.dir={folder}", *words)
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def earlier(tmp_path: Path, run_script: Run) -> Path:
    """An expert with questions of its own. A tiny model is never right, so that the best expert is the first one."""
    train(run_script, tmp_path / "earlier", "task=products", "objective=sft", "sampling.samples=1")
    expert = Expert.load(tmp_path / "earlier" / "expert.safetensors")
    return Expert({name: z * 1.25 for name, z in expert.scales.items()}, expert.metadata).save(
        tmp_path / "e.safetensors"
    )


def test_training_begins_with_the_expert(earlier: Path, tmp_path: Path, run_script: Run) -> None:
    results = train(run_script, tmp_path / "run", f"start_from={earlier}")
    assert list(results["scores"]["chain_sum"]) == ["base", "start", "expert"]
    assert results["paired"]["chain_sum"].keys() == {"start", "expert"}
    begun, expert = Expert.load(earlier), Expert.load(tmp_path / "run" / "expert.safetensors")
    assert expert.metadata.step == 0
    for name, z in expert.scales.items():
        torch.testing.assert_close(z, begun.scales[name])
    assert expert.metadata.start == file_sha256(earlier)
    alone = train(run_script, tmp_path / "alone")
    assert "start" not in alone["scores"]["chain_sum"]
    own = Expert.load(tmp_path / "alone" / "expert.safetensors").metadata
    assert own.start is None
    assert expert.metadata.prompts == begun.metadata.prompts | own.prompts
    assert begun.metadata.prompts.isdisjoint(own.prompts)


def test_it_is_resumed_and_reported_again(earlier: Path, tmp_path: Path, run_script: Run) -> None:
    before = train(run_script, tmp_path / "run", f"start_from={earlier}")["scores"]
    (tmp_path / "run" / "results.json").unlink()
    run_script("train", f"resume={tmp_path / 'run'}")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["scores"] == before


def test_questions_stay_unknown_where_the_expert_has_none(earlier: Path, tmp_path: Path, run_script: Run) -> None:
    expert = Expert.load(earlier)
    old = Expert(expert.scales, replace(expert.metadata, prompts=None)).save(tmp_path / "old.safetensors")
    train(run_script, tmp_path / "run", f"start_from={old}")
    assert Expert.load(tmp_path / "run" / "expert.safetensors").metadata.prompts is None


def test_another_adapter_begins_with_its_own_kind(tmp_path: Path, run_script: Run) -> None:
    train(run_script, tmp_path / "first", "adapter=steering")
    first = AdapterWeights.load(tmp_path / "first")
    moved = AdapterWeights({name: value + 0.5 for name, value in first.state.items()}, first.metadata)
    moved.save(tmp_path / "first" / "adapter.safetensors")
    train(run_script, tmp_path / "second", "adapter=steering", f"start_from={tmp_path / 'first'}")
    second = AdapterWeights.load(tmp_path / "second")
    assert all(torch.equal(second.state[name], value) for name, value in moved.state.items())


def test_what_does_not_fit_is_one_message(earlier: Path, tmp_path: Path, run_script: Run, caplog, capsys) -> None:
    for number, (words, message) in enumerate(
        (
            (["adapter=lora", f"start_from={tmp_path / 'earlier'}"], "Set adapter=svf"),
            ([f"start_from={tmp_path / 'none'}"], "No expert file at"),
            ([f"start_from={earlier}", "base_model.seed=1"], "Load the model it was trained for"),
            ([f"start_from={earlier}", "adapter.spectrum=top", "adapter.rank=2"], "spectrum"),
            ([f"start_from={earlier}", "trainer=fsdp"], "start_from= is not for trainer=fsdp"),
        )
    ):
        caplog.clear()
        arguments = ("train", "experiment=smoke", *words, f"hydra.run.dir={tmp_path / str(number)}")
        assert message in error_of(lambda arguments=arguments: run_script(*arguments), caplog, capsys)
