"""bench/rl_step.py on the tiny model: whole steps of t2 and TRL, equal work, and reports that can be joined."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
work = importlib.import_module("rl_work")
systems = importlib.import_module("rl_systems")
trl_side = importlib.import_module("rl_trl")
growth = importlib.import_module("rl_grow")
sizes = importlib.import_module("rl_size")
rl_step = importlib.import_module("rl_step")

JOB = work.Job(model="tiny", prompts=2, samples=3, new_tokens=5, steps=1, warmup=1, micro_batch_tokens=300)
TINY = ["--model", "tiny", "--prompts", "2", "--samples", "3", "--new-tokens", "5", "--steps", "1", "--threads", "1"]
HAS_TRL = importlib.util.find_spec("trl") is not None


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # TRL reports its trainers
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(
    scope="module",
    params=["t2_hf", pytest.param("trl_lora", marks=pytest.mark.skipif(not HAS_TRL, reason="needs trl"))],
)
def row(request):
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
        return rl_step.measure_one(request.param, JOB)


def made_up(name: str = "t2_hf", step: float = 2.0) -> dict:
    return {
        "system": name,
        "status": "measured",
        "steps": [{"step": step, "rollout": step / 2, "reward": 0.0, "update": step / 2}],
        "warmup": [],
        "tokens_per_step": 30,
        "trainable_parameters": 7,
        "mean_score": 0.5,
        "prompts_sha256": "a",
        "memory": {"held_bytes": 1_000_000, "peak_bytes": 3_000_000},
        "machine": {"cpu": "x", "threads": 1, "gpu": None},
        "versions": {},
    }


MISSING = {"system": "t2_vllm", "status": "not installed"}


def saved(folder: Path, name: str, *rows: dict, **arguments: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(rl_step.report({"prompts": 2} | arguments, rows)))
    return path


def test_row_has_its_keys(row):
    assert row.keys() == made_up().keys()
    assert row["steps"][0].keys() == {"step", *work.PHASES}
    assert json.loads(json.dumps(row)) == row


def test_warm_up_is_not_counted(row):
    assert (len(row["warmup"]), len(row["steps"])) == (1, 1)


def test_phases_add_up_to_the_step(row):
    step = row["steps"][0]
    assert sum(step[phase] for phase in work.PHASES) == pytest.approx(step["step"])
    assert min(step["rollout"], step["reward"], step["update"]) > 0


def test_a_step_fits_into_its_peak(row):
    assert 0 < row["memory"]["held_bytes"] <= row["memory"]["peak_bytes"]


def test_trl_trains_every_linear_it_adapts():
    pytest.importorskip("trl")
    lm = systems.load("tiny", "float32", "cpu")
    grading, meter = work.Grading(JOB), work.Meter(JOB.warmup)
    trainable = trl_side.run_trl(lm, grading, JOB, meter)
    moved = {name: bool((p != 0).any()) for name, p in lm.model.named_parameters() if "lora_B" in name}
    assert len(moved) == 2 * 7  # layers * linears of a block
    assert all(moved.values())
    assert trainable == sum(p.numel() for name, p in lm.model.named_parameters() if "lora_" in name)


def test_trl_grades_each_answer_once():
    pytest.importorskip("trl")
    grading = work.Grading(JOB)
    trl_side.run_trl(systems.load("tiny", "float32", "cpu"), grading, JOB, work.Meter(JOB.warmup))
    assert len(grading.given) == JOB.all_steps * JOB.prompts * JOB.samples


def test_missing_package_is_a_row_of_its_own(monkeypatch):
    monkeypatch.setitem(systems.NEEDS, "t2_vllm", "no_such_package")
    assert systems.measure("t2_vllm", JOB) == MISSING


def test_other_prompts_are_refused():
    meter = work.Meter(1)
    meter.answered([1, 2], 5)
    with pytest.raises(RuntimeError, match="did not answer the prompts"):
        systems.check("x", meter, [[1, 3]], 5)


def test_shorter_answers_are_refused():
    meter = work.Meter(1)
    meter.answered([1, 2], 4)
    with pytest.raises(RuntimeError, match="4 to 4 tokens, not 5"):
        systems.check("x", meter, [[1, 2]], 5)


@pytest.mark.parametrize(("scores", "expected"), [("alternate", [1.0, 0.0, 1.0]), ("task", [0.0, 1.0, 1.0])])
def test_grading_keeps_the_tasks_own_scores(scores, expected):
    grading = work.Grading(work.Job(prompts=1, steps=1, scores=scores))
    example = grading.examples[0]
    texts = ["none", str(example.answer), str(example.answer)]
    assert [grading.score(example, text) for text in texts] == expected
    assert grading.given == [0.0, 1.0, 1.0]


def test_meter_charges_the_rest_of_a_step_to_the_update():
    meter = work.Meter(5)
    for seconds in (1.0, 2.0):
        meter.begin()
        meter.charge("rollout", seconds)
        meter.end()
    assert [step["rollout"] for step in meter.steps] == [1.0, 2.0]
    assert meter.steps[1]["update"] == pytest.approx(meter.steps[1]["step"] - 2.0)


def test_ratios_are_to_trl():
    first, second = rl_step.report({}, [made_up("t2_hf", 2.0), made_up("trl_lora", 4.0)])["systems"]
    assert first["ratio_to_trl_lora"] == {"step": 0.5, "rollout": 0.5, "update": 0.5, "peak": 1.0}
    assert second["ratio_to_trl_lora"]["step"] == 1.0


def test_table_has_a_line_per_system():
    lines = rl_step.table(rl_step.report({}, [made_up(), MISSING, made_up("trl_lora")])["systems"]).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["t2_hf", "t2_vllm", "trl_lora"]
    assert lines[2].endswith("not installed")
    assert lines[1].split()[-4:] == ["30", "3", "2", "7"]  # tokens/s, peak, of it step, parameters
    assert [line.split()[0] for line in lines[6:]] == ["t2_hf", "trl_lora"]


def test_table_without_trl_has_no_ratios():
    assert len(rl_step.table(rl_step.report({}, [made_up()])["systems"]).splitlines()) == 2


def test_merge_joins_what_two_environments_measured(tmp_path, capsys):
    here = saved(tmp_path, "a.json", made_up(), MISSING, made_up("trl_lora", 4.0))
    there = saved(tmp_path, "b.json", made_up("t2_vllm", 1.0))
    rl_step.main(["--merge", str(here), str(there), "--output", str(tmp_path / "c.json")])
    rows = json.loads((tmp_path / "c.json").read_text())["systems"]
    assert [row["system"] for row in rows] == ["t2_hf", "t2_vllm", "trl_lora"]
    assert rows[1]["ratio_to_trl_lora"]["step"] == 0.25
    assert "not installed" not in capsys.readouterr().out


@pytest.mark.parametrize("first", [True, False])
def test_merge_keeps_the_measured_row(tmp_path, first):
    paths = [saved(tmp_path, "a.json", made_up("t2_vllm")), saved(tmp_path, "b.json", MISSING)]
    (row,) = rl_step.merge(paths if first else paths[::-1])["systems"]
    assert row["status"] == "measured"


def test_merge_refuses_other_arguments(tmp_path):
    paths = [saved(tmp_path, "a.json", made_up()), saved(tmp_path, "b.json", made_up("trl_lora"), prompts=3)]
    with pytest.raises(ValueError, match="another prompts"):
        rl_step.merge(paths)


@pytest.mark.parametrize(("key", "value"), [("prompts_sha256", "b"), ("machine", {"cpu": "y"})])
def test_merge_refuses_what_cannot_be_compared(tmp_path, key, value):
    other = copy.deepcopy(made_up("trl_lora")) | {key: value}
    with pytest.raises(ValueError, match=f"different {key}"):
        rl_step.merge([saved(tmp_path, "a.json", made_up()), saved(tmp_path, "b.json", other)])


def test_merge_refuses_a_system_measured_twice(tmp_path):
    with pytest.raises(ValueError, match="t2_hf was measured twice"):
        rl_step.merge([saved(tmp_path, "a.json", made_up()), saved(tmp_path, "b.json", made_up())])


def test_one_writes_its_row(tmp_path):
    rl_step.main([*TINY, "--one", "t2_hf", "--output", str(tmp_path / "row.json")])
    assert json.loads((tmp_path / "row.json").read_text())["system"] == "t2_hf"


def test_main_measures_each_system_in_a_child_with_its_own_arguments(tmp_path, monkeypatch, capsys):
    seen: list[list[str]] = []

    def child(command: list[str], **_: object) -> None:
        seen.append(command)
        one, path = command[command.index("--one") + 1], Path(command[-1])
        path.write_text(json.dumps(made_up(one)))

    monkeypatch.setattr(subprocess, "run", child)
    monkeypatch.setattr(rl_step, "git_commit", lambda _: "abc")
    out = tmp_path / "all.json"
    rl_step.main([*TINY, "--systems", "trl_lora,t2_hf", "--output", str(out)])
    result = json.loads(out.read_text())
    assert result.keys() == {"git_commit", "arguments", "systems"}
    assert result["arguments"]["samples"] == 3
    assert [row["system"] for row in result["systems"]] == ["trl_lora", "t2_hf"]
    assert all(set(TINY) <= set(command) for command in seen)
    assert "/ trl_lora" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "t2_hf,trl"], "got trl; allowed: t2_hf, t2_vllm, trl_lora"),
        (["--samples", "1"], "got 1; allowed: 2 or more"),
        (["--warmup", "0"], "got 0; allowed: 1 or more"),
        (["--grow-samples", "1,x"], "got x; allowed: 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        rl_step.main(arguments)
    assert message in capsys.readouterr().err


def test_grow_reports_every_point_and_draws_it(tmp_path, capsys):
    out, figure = tmp_path / "grow.json", tmp_path / "grow.png"
    small = ["--grow", "--grow-samples", "1,3", "--grow-lengths", "9,20", "--figure", str(figure)]
    rl_step.main([*TINY, *small, "--output", str(out)])
    result = json.loads(out.read_text())
    assert result.keys() == {"machine", "versions", "git_commit", "arguments", "grow"}
    points = [(row["prompt_tokens"], row["samples"]) for row in result["grow"]]
    assert points == [(9, 1), (9, 3), (20, 1), (20, 3)]
    assert all(len(row["seconds"][layout]) == 1 for row in result["grow"] for layout in growth.LAYOUTS)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_sizes_report_models_and_memory(tmp_path, capsys):
    out = tmp_path / "sizes.json"
    rl_step.main([*TINY, "--sizes", "--size-models", "tiny", "--size-prompt", "9", "--output", str(out)])
    result = json.loads(out.read_text())
    assert result.keys() == {"machine", "versions", "git_commit", "arguments", "models", "memory"}
    assert [row["model"] for row in result["models"]] == ["tiny"]
    for row in result["memory"].values():
        assert row["peak_bytes"] >= row["held_bytes"] > 0
    assert "shared / plain" in capsys.readouterr().out


def test_random_factors_have_the_shapes_of_an_svd():
    weights = {"wide": torch.zeros(3, 5), "tall": torch.zeros(5, 3)}
    for name, parts in sizes._random_parts(weights):
        U, s, Vh = torch.linalg.svd(weights[name], full_matrices=False)
        assert (parts.U.shape, parts.s.shape, parts.Vh.shape) == (U.shape, s.shape, Vh.shape)


def test_both_layouts_make_the_same_update():
    results = []
    for shared in (False, True):
        lm = systems.load("tiny", "float32", "cpu")
        adapter = systems.SVF(modules="all", cache=False, progress=False)
        adapter.inject(lm.model, lm.source)
        optimizer = torch.optim.SGD(adapter.trainable(), lr=1.0)
        rollout = growth.random_rollout(lm, 9, 4, 5)
        loss = growth.update(lm, adapter, optimizer, rollout, 30, shared, 1e-3)
        results.append((loss, torch.cat(list(adapter.state().values()))))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-5)
    assert not torch.equal(results[0][1], torch.ones_like(results[0][1]))


def test_too_long_a_prompt_is_refused():
    with pytest.raises(ValueError, match="exceed the context"):
        growth.random_rollout(systems.load("tiny", "float32", "cpu"), 510, 2, 5)
