"""The scripts as a user runs them, on a tiny random model: what they write, and what they say of bad input."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from script_errors import error_of
from wandb_offline import read_runs

from t2.experts.expert import Expert
from t2.run.launch_resume import resume_arguments
from t2.run.metrics_file import read_metrics
from t2.training.checkpoint_file import LAST_CHECKPOINT

Run = Callable[..., Any]
RESULT_KEYS = {
    *("command", "base_model", "adapter", "task", "strategy", "trainable_parameters", "scores", "paired", "seconds"),
    *("peak_memory_bytes", "seed", "versions", "git_commit"),
}


@pytest.fixture
def trained(tmp_path: Path, run_script: Run) -> Path:
    run = tmp_path / "run"
    run_script("train", "experiment=smoke", f"hydra.run.dir={run}")
    return run


def test_a_run_folder_holds_what_is_promised(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results.keys() >= RESULT_KEYS
    assert results["scores"]["chain_sum"].keys() == {"base", "expert"}
    assert results["scores"]["chain_sum"]["base"].keys() == {"mean", "stderr", "n", "majority"}
    assert results["paired"]["chain_sum"]["expert"].keys() == {"difference", "ci95", "p_value"}
    assert results["seconds"].keys() >= {"svd", "rollout", "score", "update", "total"}
    expert = Expert.load(trained / "expert.safetensors")
    assert results["trainable_parameters"] == expert.parameter_count
    assert expert.metadata.base_model == "tiny:llama"
    assert set(read_metrics(trained / "metrics.csv")) == {0, 1, 2}
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {0, 1}
    assert (trained / LAST_CHECKPOINT).is_file()
    assert (trained / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (trained / ".hydra" / "config.yaml").is_file()


def test_wandb_has_the_run(trained: Path) -> None:
    (run,) = read_runs(trained)
    assert run.exit_code == 0
    assert run.config["steps"] == 2
    assert len(run.values("train/score")) == 2
    assert len(run.values("val/score")) == 3
    table = run.table("samples")
    assert table["columns"][:3] == ["step", "prompt", "reference"]
    assert len(table["data"]) == 8  # of two steps


def test_evaluate_and_adapt_use_the_expert(
    trained: Path, tmp_path: Path, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    common = ("base_model=tiny", f"expert={trained}")
    run_script("evaluate", *common, "task=products", "limit=6", "controls=null", f"hydra.run.dir={out}")
    results = json.loads((out / "results.json").read_text())
    assert results.keys() >= RESULT_KEYS
    assert results["scores"]["products"]["expert"]["n"] == 6
    assert len((out / "samples.jsonl").read_text().splitlines()) == 12
    capsys.readouterr()
    run_script("adapt", *common, "prompt=hello", "sampling.max_new_tokens=3", f"hydra.run.dir={tmp_path / 'adapt'}")
    shown = capsys.readouterr().out
    assert "[base]" in shown
    assert "[expert]" in shown


def test_several_tasks_in_one_run(tmp_path: Path, run_script: Run) -> None:
    run_script("evaluate", "base_model=tiny", "benchmarks=arithmetic", "limit=3", f"hydra.run.dir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["scores"].keys() == {"chain_sum", "products", "gcd", "basic_arithmetic"}
    assert results["task"] == list(results["scores"])


def test_a_sweep_gives_every_job_its_own_run(tmp_path: Path, run_script: Run) -> None:
    run_script(
        "train", "-m", "experiment=smoke", "task=products", "objective=rloo,reinforce", "seed=1,2", "steps=1",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    runs = read_runs(tmp_path)
    assert len(runs) == 4
    jobs = itertools.product(("rloo", "reinforce"), (1, 2))
    assert {run.name for run in runs} == {f"products-{objective}-seed{seed} steps=1" for objective, seed in jobs}
    assert len({run.id for run in runs}) == 4
    assert {OmegaConf.load(path).paths.run_command for path in tmp_path.glob("*/.hydra/config.yaml")} == {"train"}
    assert {run.group for run in runs} == {"-".join(tmp_path.parts[-2:])}  # one of the sweep
    assert all(len(run.values("train/score")) == 1 for run in runs)


def script(*arguments: str) -> subprocess.Popen[str]:
    # Without what W&B left in this process's environment: a shared service would hold on to a killed run.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "experiment=smoke", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        # A shell lets its background jobs ignore Ctrl-C, and so would a run started from tests in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if (run / "metrics.csv").exists() and len(read_metrics(run / "metrics.csv")) > steps:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise TimeoutError(f"{run} made no {steps} steps")


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, run_script: Run, stop: signal.Signals) -> None:
    steps = ("steps=24", "callbacks.validation.every=12")  # far more than it is let run
    run_script("train", "experiment=smoke", *steps, f"hydra.run.dir={tmp_path / 'whole'}")
    broken = tmp_path / "broken"
    process = script(*steps, f"hydra.run.dir={broken}")
    wait_for_steps(broken, random.randint(3, 11), process)
    time.sleep(random.random() * 0.1)
    process.send_signal(stop)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert not (broken / "results.json").exists()
    if stop == signal.SIGINT:
        assert f"python train.py resume={broken}" in output
    run_script("train", f"resume={broken}")
    whole, resumed = (torch.load(tmp_path / name / LAST_CHECKPOINT, weights_only=True) for name in ("whole", "broken"))
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    scores = [json.loads((tmp_path / name / "results.json").read_text())["scores"] for name in ("whole", "broken")]
    assert scores[0] == scores[1]


def test_resuming_a_finished_run_reports_it_again(trained: Path, run_script: Run) -> None:
    before = json.loads((trained / "results.json").read_text())["scores"]
    (trained / "results.json").unlink()
    run_script("train", f"resume={trained}")
    assert json.loads((trained / "results.json").read_text())["scores"] == before


def test_resume_takes_further_overrides(trained: Path, run_script: Run) -> None:
    run_script("train", f"resume={trained}", "steps=3", "logger=csv", "trainer=default")
    assert set(read_metrics(trained / "metrics.csv")) == {0, 1, 2, 3}


def test_resume_refuses_what_it_would_ignore(
    trained: Path, run_script: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / LAST_CHECKPOINT).read_bytes()
    changes = ("steps=3", "optimizer.lr=0.5", "seed=4")
    shown = error_of(lambda: run_script("train", f"resume={trained}", *changes), caplog, capsys)
    assert "optimizer.lr: was 0.002, now 0.5" in shown
    assert "seed: was 0, now 4" in shown
    assert (trained / LAST_CHECKPOINT).read_bytes() == before


BAD_INPUT = {
    "misspelt choice": (("task=chain_sun",), ["Did you mean 'chain_sum'"]),
    "unknown choice": (("objective=nothing_like_it",), ["Available options in 'objective'", "rloo"]),
    "misspelt key": (("sampling.sample=3",), ["Did you mean 'sampling.samples'"]),
    "misspelt group": (("taks=gcd",), ["Did you mean 'task'"]),
    "not an override": (("sampling.samples=[",), ["sampling.samples=["]),
    "pattern without a match": (("adapter.modules=[q_prj]",), ["matches no matrix", "Did you mean 'q_proj'"]),
    "layer that is not there": (("adapter.layers=[7]",), ["layers 0 to 1"]),
    "parametrization": (("adapter.parametrization=sigmoid",), ["allowed: direct, sigmoid_nuclear"]),
    "one sample for rloo": (("sampling.samples=1",), ["set sampling.samples to 2 or more"]),
    "more prompts than the split": (("prompts_per_step=5000",), ["1 to the 50 examples"]),
    "reward map": (("objective.reward_wrong=2",), ["must exceed reward_wrong"]),
    "several processes": (("+trainer.strategy=ddp",), ["a run is one process on one device"]),
    "prompt longer than the context": (("base_model.context_length=16",), ["but the context of tiny:llama is 16"]),
    "model source": (
        ("base_model=smollm2_135m", "base_model.source=models/no_such.gguf"), ["models/no_such.gguf"],
    ),
    "resume from no run": (("resume=conf",), ["is not the folder of an interrupted"]),
    "resume from nowhere": (("resume=no/such/folder",), ["is not the folder of an interrupted"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_has_its_own_message(
    case: str, tmp_path: Path, run_script: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, expected = BAD_INPUT[case]
    shown = error_of(
        lambda: run_script("train", "experiment=smoke", *overrides, f"hydra.run.dir={tmp_path}"), caplog, capsys
    )
    for part in expected:
        assert part in shown, shown
    assert "Traceback" not in shown


def test_an_expert_of_another_model_is_refused(
    trained: Path, tmp_path: Path, run_script: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("base_model=tiny", "base_model.seed=1", "limit=2", f"hydra.run.dir={tmp_path}", f"expert={trained}")
    shown = error_of(lambda: run_script("evaluate", *common), caplog, capsys)
    assert "transfer=true" in shown
    run_script("evaluate", *common, "transfer=true")
    assert (tmp_path / "results.json").exists()


def test_a_folder_without_an_expert_is_named(
    tmp_path: Path, run_script: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = error_of(
        lambda: run_script("adapt", "base_model=tiny", "prompt=x", f"expert={tmp_path}", f"hydra.run.dir={tmp_path}/r"),
        caplog, capsys,
    )  # fmt: skip
    assert "holds no expert.safetensors" in shown


def test_resume_rewrites_the_command_line(trained: Path) -> None:
    assert resume_arguments(["task=gcd"]) is None
    assert resume_arguments(["resume=null"]) is None
    arguments = resume_arguments([f"resume={trained}", "steps=9"])
    assert arguments is not None
    assert f"hydra.run.dir={trained}" in arguments
    assert arguments[-1] == "steps=9"


def test_svd_cache_is_shared_by_runs(tmp_path: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    run_script("train", "experiment=smoke", f"hydra.run.dir={tmp_path / 'a'}")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 14
    monkeypatch.setattr(torch.linalg, "svd", None)
    run_script("train", "experiment=smoke", f"hydra.run.dir={tmp_path / 'b'}")
