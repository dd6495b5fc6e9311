"""What reaches a dashboard: offline W&B runs of the scripts, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from tiny_pool import save_pool
from wandb_offline import OfflineRun, read_runs

from t2.evaluation import dashboard
from t2.evaluation.wandb_results import log_used_experts
from t2.experts.expert import Expert

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
SMALL = ("base_model=tiny", "limit=3", "sampling.max_new_tokens=3", "controls.limit=2", "shots=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("wandb") / "pool")


def only_run(folder: Path) -> OfflineRun:
    (run,) = read_runs(folder)
    return run


def test_a_training_run_ends_with_base_expert_and_gain_and_the_expert_as_an_artifact(run_script, tmp_path) -> None:
    run_script("train", "experiment=smoke", "logger.wandb.tags=[a]", "prompts_per_step=3", f"hydra.run.dir={tmp_path}")
    run, results = only_run(tmp_path), json.loads((tmp_path / "results.json").read_text())
    scores = results["scores"]["chain_sum"]
    assert (run.job_type, run.tags, run.name, run.group) == ("train", ["a"], "chain_sum-rloo-seed0", "tiny-chain_sum")
    assert run.summary["val/base"] == scores["base"]["mean"]
    assert run.summary["val/expert"] == scores["expert"]["mean"]
    assert run.summary["val/gain"] == results["paired"]["chain_sum"]["expert"]["difference"]
    assert run.summary["seconds/total"] == results["seconds"]["total"]
    assert {"val/best_step", "trainable_parameters", "peak_memory_bytes", "figures/learning_curve/path"} <= set(
        run.summary
    )
    assert run.metrics["val/score"].summary.max
    assert run.metrics["*"].step_metric == "trainer/global_step"
    assert run.config["data"] == results["data"]
    assert run.config["git_commit"].startswith(results["git_commit"].removesuffix("+changes"))
    (expert,) = [one for one in run.artifacts if one.type == "expert"]
    assert expert.name == "expert-chain_sum"
    assert json.loads(expert.metadata)["task"] == "chain_sum"
    (entry,) = expert.manifest.contents
    assert (entry.path, entry.size) == ("expert.safetensors", (tmp_path / "expert.safetensors").stat().st_size)


def test_tables_show_completions_of_every_prompt_and_of_validations_and_grow(run_script, tmp_path) -> None:
    arguments = ("experiment=smoke", "prompts_per_step=3", "callbacks.samples.rows=4")
    run_script("train", *arguments, f"hydra.run.dir={tmp_path}")
    run = only_run(tmp_path)
    rows = run.table("samples")["data"]
    assert [row[0] for row in rows] == [0] * 4 + [1] * 4
    assert len({row[1] for row in rows[:3]}) == 3  # a sample of each of the three prompts before a second
    assert {row[1] for row in rows[3:4]} < {row[1] for row in rows[:3]}
    assert [row[0] for row in run.table("validation")["data"]] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_run_that_is_still_written_is_read_as_far_as_it_goes(run_script, tmp_path) -> None:
    run_script("train", "experiment=smoke", f"hydra.run.dir={tmp_path}")
    whole = only_run(tmp_path)
    (file,) = whole.folder.glob("run-*.wandb")
    written = file.read_bytes()
    for size in range(7, len(written), 97):
        file.write_bytes(written[:size])
        (part,) = read_runs(tmp_path, patience_s=0)
        assert part.history == whole.history[: len(part.history)]


def test_a_resumed_run_is_the_same_run_with_its_rows(run_script, tmp_path) -> None:
    run_script("train", "-m", "experiment=smoke", "seed=3", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=job")
    run_script("train", f"resume={tmp_path / 'job'}", "steps=3")
    first, second = read_runs(tmp_path)
    assert (first.id, first.name, first.group) == (second.id, second.name, second.group)
    assert first.name == "chain_sum-rloo-seed3"
    assert [first.values("trainer/global_step")[-1], second.values("trainer/global_step")[-1]] == [2, 3]
    assert len(second.values("train/score")) == 1  # of the third step
    before, after = (run.table("samples")["data"] for run in (first, second))
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_a_new_run_in_the_place_of_an_old_one_is_another(run_script, tmp_path) -> None:
    ids = set()
    for name in ("one", "two"):
        run_script("train", "experiment=smoke", "steps=1", f"hydra.run.dir={tmp_path / 'run'}")
        (tmp_path / "run").rename(tmp_path / name)
        ids.add(only_run(tmp_path / name).id)
    assert len(ids) == 2


def test_an_alert_says_that_nothing_is_learned(run_script, tmp_path) -> None:
    run_script("train", "experiment=smoke", "steps=5", f"hydra.run.dir={tmp_path}")  # a random model is never right
    assert only_run(tmp_path).alerts == ["Nothing is learned"]


def test_an_evaluation_has_scores_choices_and_mixing_weights(run_script, folder, tmp_path) -> None:
    run_script(
        "evaluate", *SMALL, "task=products", "+experts._target_=t2.experts.pool.ExpertPool.load",
        f"+experts.experts={folder}", "strategy=prompt", "benchmark_domains={products: math}",
        "contrasts=['prompt - form']", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    run, results = only_run(tmp_path), json.loads((tmp_path / "results.json").read_text())
    assert (run.job_type, run.name) == ("evaluate", "products-prompt-seed0")
    scores = results["scores"]["products"]
    rows = {row[1]: row for row in run.table("results")["data"]}
    assert {system: row[3] for system, row in rows.items()} == {system: one["mean"] for system, one in scores.items()}
    assert run.summary["score/products/prompt"] == scores["prompt"]["mean"]
    assert run.summary["gain_over_form/products/prompt"] == results["paired_form"]["products"]["prompt"]["difference"]
    assert len(run.table("contrasts")["data"]) == 1
    completions = run.table("completions")
    of_prompt = [dict(zip(completions["columns"], row, strict=True)) for row in completions["data"]]
    chosen = [row for row in of_prompt if row["system"] == "prompt"]
    assert len(chosen) == 3
    assert all(row["chosen"] in ("math", "letters", "other") for row in chosen)
    assert all(row["mixing_weights"].startswith("letters ") for row in chosen)
    assert all(row["chosen"] is None for row in of_prompt if row["system"] == "base")
    assert sum(row[2] for row in run.table("confusion/prompt_table")["data"]) == 3
    assert run.config["used_experts"]["expert:math"]["domain"] == "math"
    assert any(key.startswith("figures/confusion_prompt") for key in run.summary)


def test_a_search_has_its_history_and_mixture(run_script, folder, tmp_path) -> None:
    run_script(
        "adapt", "base_model=tiny", "sampling.max_new_tokens=3", "+experts._target_=t2.experts.pool.ExpertPool.load",
        f"+experts.experts={folder}", "strategy=few_shot", "task=gcd", "shots=3", "strategy.search.population=6",
        "strategy.search.iterations=2", "strategy.search.elite_share=0.5", "prompt=hello", "logger=wandb",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    run, results = only_run(tmp_path), json.loads((tmp_path / "results.json").read_text())
    assert run.job_type == "adapt"
    assert run.values("search/iteration") == [0, 1]
    assert run.summary["search/fitness"] == results["support"]["fitness"]
    assert run.summary["weight/gcd/few_shot/math"] == results["mixing_weights"]["gcd"]["few_shot"]["math"]
    assert [one.name for one in run.artifacts if one.type == "mixture"] == ["mixture-gcd"]
    assert [row[1] for row in run.table("completions")["data"]] == ["base", "few_shot"]


def test_an_online_evaluation_uses_the_very_artifact_of_the_training(folder, tmp_path) -> None:
    expert = Expert.load(folder / "math.safetensors")
    used: list[wandb.Artifact] = []
    run = SimpleNamespace(offline=False, use_artifact=used.append, config=SimpleNamespace(update=lambda *_, **__: None))
    log_used_experts([run], {"expert": expert})
    (artifact,) = used
    logged = wandb.Artifact(artifact.name, type="expert")
    logged.add_file(str(expert.save(tmp_path / "expert.safetensors")))
    assert artifact.digest == logged.digest


def test_online_without_a_key_is_refused_with_what_to_do(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    arguments = ("experiment=smoke", "logger.wandb.offline=false", f"hydra.run.dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert "logger.wandb.offline=true" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_dashboard_shows_what_runs_log(run_script, folder, tmp_path) -> None:
    run_script("train", "experiment=smoke", f"hydra.run.dir={tmp_path / 'train'}")
    run_script("evaluate", *SMALL, "task=products", f"expert={tmp_path / 'train'}", "contrasts=['expert - form']",
               f"hydra.run.dir={tmp_path / 'evaluate'}")  # fmt: skip
    runs = read_runs(tmp_path)
    logged = {key for run in runs for key in run.summary} | {key for run in runs for row in run.history for key in row}
    wanted = {metric for plots in dashboard.TRAINING.values() for metrics in plots.values() for metric in metrics}
    assert wanted | {metric for metrics in dashboard.ENDS.values() for metric in metrics} <= logged
    assert {f"{table}/path" for table in dashboard.TABLES} <= logged
    workspace = dashboard.workspace("someone", "t2")
    assert [section.name for section in workspace.sections][-2:] == ["Compared", "Tables"]
    spec = workspace._to_model().spec.model_dump_json()
    assert all(json.dumps(metric) in spec for metric in wanted)
    grids = [block for block in dashboard.report("someone", "t2", "sweep").blocks if hasattr(block, "runsets")]
    assert len(grids) == len(workspace.sections)


def test_the_dashboard_without_a_key_says_so(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="No API key"):
        dashboard.main(["--entity", "someone"])


def test_jobs_of_the_sweep_that_agents_run_compose() -> None:
    sweep = yaml.safe_load((ROOT / "examples" / "wandb" / "sweep.yaml").read_text())
    fixed = [word for word in sweep["command"] if "=" in word]
    swept = [f"{key}={of['values'][0]}" for key, of in sweep["parameters"].items()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[*fixed, *swept])
    assert (cfg.optimizer.lr, cfg.seed, cfg.logger.wandb.offline) == (1e-3, 0, False)
