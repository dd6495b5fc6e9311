"""Each bench on the tiny model writes a complete record; the compared systems do the same work."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.commands
pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
systems = importlib.import_module("step_systems")
update, job = (importlib.import_module(f"rl.{name}") for name in ("update", "job"))

TINY_JOB = "--prompts 2 --samples 3 --new-tokens 5 --steps 1 --threads 1"
# bench -> arguments, and what the record must satisfy
RUNS = {
    "step": (
        "--rows 3 --prompt 9 --completion 4 --repeats 2 --no-memory",
        lambda r: (
            [one["system"] for one in r["systems"]] == list(systems.SYSTEMS)
            and all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in r["systems"])
            and r["systems"][1]["ratio_to_floor"] == _system(r, "lora_all")["ratio_to_lora_all"] == 1.0
        ),
    ),
    "step --one floor": ("--rows 3 --prompt 9 --completion 4", lambda r: 0 < r["held_bytes"] <= r["peak_bytes"]),
    "cem": (
        "--population 4 --new-tokens 3 --repeats 1 --rank 3",
        lambda r: r["equal_completions"] == r["completions"] == 12 and r["merged_to_per_example"] > 0,
    ),
    "decomposition": ("--ranks 2,3 --repeats 2", lambda r: [s["error"] < 1e-3 for s in r["systems"]] == [True] * 3),
    "merging": ("--ranks 2,3 --repeats 2", lambda r: [len(s["seconds"]) for s in r["systems"]] == [2, 2, 2]),
    "two_pass": (
        "--batches 3,5 --distinct 1,4 --new-tokens 3 --repeats 2 --batch-rows 4",
        lambda r: (
            [(c["batch"], c["distinct"]) for c in r["cells"]] == [(3, 1), (3, 3), (5, 1), (5, 4)]
            and all(len(c["seconds"]["merged"]) == len(c["seconds"]["per_example"]) == 2 for c in r["cells"])
        ),
    ),
    "two_pass --dtype bfloat16": (
        "--batches 64 --distinct 2,4 --new-tokens 2 --repeats 1",
        lambda r: [cell["auto"] for cell in r["cells"]] == ["merged", "per_example"],
    ),
    "two_pass --pass1": ("--batches 3,5 --new-tokens 3", lambda r: all(c["pass1_to_pass2"] > 0 for c in r["pass1"])),
    "two_pass --pass1 centroid": ("--batches 3 --new-tokens 3", lambda r: len(r["pass1"][0]["seconds"]["pass1"]) == 3),
    "two_pass --one 100": ("--new-tokens 2 --pass2 merged", lambda r: 0 < r["held_bytes"] <= r["peak_bytes"]),
    "rollout --one generate": ("--prompts 2 --samples 3 --new-tokens 4 --repeats 1", lambda r: r["tokens"] == 24),
    "rollout --one t2_hf": ("--prompts 2 --new-tokens 4 --repeats 1", lambda r: r["drift"]["max"] < 1e-4),
    "rollout --one t2_hf_copied": (
        "--prompts 2 --prompt-tokens 99 --samples 3 --new-tokens 4 --repeats 1",
        lambda r: r["drift"]["max"] < 1e-4 and r["memory"]["peak_bytes"] > 0,
    ),
    "rollout --one t2_hf_bf16": ("--prompts 2 --new-tokens 4 --repeats 1", lambda r: r["drift"]["max"] > 1e-4),
    "precision": (
        "--dtypes bfloat16 --prompts 1 --samples 2 --new-tokens 4 --std 0.01",
        lambda r: (
            [row["mode"] for row in r["rows"]] == ["merged", "factored"]
            and all(row["drift max"] >= row["drift mean"] >= 0 for row in r["rows"])
            and r["rows"][0]["weights noise"] > 0.05 > r["rows"][1]["weights noise"] == 0
        ),
    ),
    "dispatch": (
        "--limit 3 --ways score;classifier;centroid",
        lambda r: [one["name"] for one in r["systems"]] == ["score", "classifier", "centroid"],
    ),
    "dispatch --benchmarks unseen": (
        "--limit 3 --ways score",
        lambda r: set(r["systems"][0]["by_task"]) == {"needle_long", "compare_four"},
    ),
    "rl_step --one t2_hf": (TINY_JOB, lambda r: _complete_step(r)),
    "rl_step --one trl_lora": (TINY_JOB, lambda r: _complete_step(r)),
    "rl_step --one trl_lora --task add2": (TINY_JOB, lambda r: _complete_step(r)),  # its answers are begun
    "rl_step --one shared": (TINY_JOB, lambda r: 0 < r["held_bytes"] <= r["peak_bytes"]),
    "rl_step --grow": (
        f"{TINY_JOB} --grow-samples 1,3 --grow-lengths 9,20 --figure grow.png",
        lambda r: [(p["prompt_tokens"], p["samples"]) for p in r["grow"]] == [(9, 1), (9, 3), (20, 1), (20, 3)],
    ),
}


def _system(record: dict, name: str) -> dict:
    (found,) = (one for one in record["systems"] if one["system"] == name)
    return found


def _complete_step(row: dict) -> bool:
    (step,) = row["steps"]
    assert len(row["warmup"]) == 1, "not counted"
    assert sum(step[phase] for phase in job.PHASES) == pytest.approx(step["step"])
    return min(step.values()) > 0 and 0 < row["memory"]["held_bytes"] <= row["memory"]["peak_bytes"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # TRL reports its trainers
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("run", RUNS)
def test_record_on_the_tiny_model(run, tmp_path, monkeypatch):
    if "trl" in run:
        pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    (bench, *mode), (arguments, complete) = run.split(), RUNS[run]
    importlib.import_module(bench).main(
        ["--model", "tiny", *mode, *arguments.split(" "), "--output", str(tmp_path / "record.json")]
    )
    assert complete(json.loads((tmp_path / "record.json").read_text()))


@pytest.mark.parametrize(("bench", "arguments"), [("grading", "--answers 20 --hostile 1"), ("sandbox", "--samples 8")])
def test_grades_are_as_expected(bench, arguments, tmp_path):
    importlib.import_module(bench).main([*arguments.split(), "--output", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    for one in record.get("levels", [record]):
        assert one.get("unavailable") or one["as_expected"] == one.get("answers", one.get("samples"))


def test_attacks_that_pass_are_counted_and_named():
    bench = importlib.import_module("sandbox")
    found = {"level": "bwrap", "attacks": 9, "passed": ["a", "b"], "seconds": 1.0}
    shown = bench.attack_table([found, {"level": "unshare", "unavailable": "no namespaces"}])
    assert "2 of 9" in shown
    assert "a, b" in shown
    assert "not available: no namespaces" in shown


def test_a_sandbox_that_does_not_work_shows_in_the_table(monkeypatch):
    bench = importlib.import_module("sandbox")
    monkeypatch.setattr(bench, "CodeExecutor", lambda *_, **__: (_ for _ in ()).throw(OSError("no namespaces")))
    found = bench.measure("bwrap", bench.samples(1), 1, None)
    assert "not available: no namespaces" in bench.sandbox_table([found])


def test_no_two_graded_items_are_alike():
    answers = importlib.import_module("grading").answers(1000, 10)
    assert len({(one.gold, one.text) for one in answers}) == 1000
    assert sum(one.hostile for one in answers) == 10
    programs = importlib.import_module("sandbox").samples(8)
    assert len({one.program for one in programs}) == len({one.test for one in programs}) == 8
    assert [one.reason for one in programs].count(None) == 2


def build(name: str, dtype: str = "float32"):
    system = systems.build(name, "tiny", dtype, "cpu")
    return system, systems.Work.random(system.lm, 3, 9, 4)


LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("name", "linears", "ends"),
    [
        ("floor_forward", set(), ()),
        ("floor", set(), ()),
        ("svf", LINEARS, ("parametrization.delta",)),
        ("lora_all", LINEARS, ("lora_A.default.weight", "lora_B.default.weight")),
        ("lora_qv", {"q_proj", "v_proj"}, ("lora_A.default.weight", "lora_B.default.weight")),
        ("authors", LINEARS, ("proj.weight",)),
    ],
)
def test_a_step_reaches_the_parameters_of_its_system_alone_and_adds_nothing_up(name, linears, ends):
    system, work = build(name)
    found: set[str] = set()
    for path, parameter in system.lm.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, path=path: found.add(path))
    seen: list[torch.Tensor] = []
    system.lm.model.get_input_embeddings().register_forward_hook(lambda _, __, out: seen.append(out))
    system.step(work)
    once = [parameter.grad.clone() for parameter in system.trainable]
    system.step(work)
    assert {part for path in found for part in path.split(".") if part.endswith("_proj")} == linears
    assert all(path.endswith(ends) for path in found)
    torch.testing.assert_close(once, [parameter.grad for parameter in system.trainable])
    assert name != "floor" or bool((seen[0].grad != 0).any())  # back to the embeddings
    dense = [module for module in system.lm.model.modules() if isinstance(module, nn.Linear)]
    assert name != "authors" or all(module.weight.grad is None for module in dense)


def test_authors_and_svf_give_the_same_gradient_away_from_the_start():
    gradients = []
    for system, work in (build("svf"), build("authors")):
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for z in system.trainable:
                z.add_(0.2 * torch.randn(z.shape, generator=random))
        system.step(work)
        gradients.append(torch.cat([z.grad for z in system.trainable]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_half_precision_systems_agree():
    losses = [system.step(work) / 12 for system, work in (build(name, "bfloat16") for name in systems.SYSTEMS)]
    assert max(losses) - min(losses) < 5e-2


def test_both_layouts_make_the_same_update():
    results = []
    for layout in update.LAYOUTS:
        learner = update.Learner("tiny")
        learner.optimizer = torch.optim.SGD(learner.adapter.trainable(), lr=1.0)
        loss = learner.update(update.random_rollout(learner.lm, 9, 4, 5), 30, layout)
        results.append((loss, torch.cat(list(learner.adapter.state().values()))))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-5)
    assert not torch.equal(results[0][1], torch.ones_like(results[0][1]))


def test_a_missing_package_is_a_row_of_its_own(monkeypatch):
    rl = importlib.import_module("rl.systems")
    monkeypatch.setitem(rl.NEEDS, "t2_vllm", "no_such_package")
    assert rl.run_system("t2_vllm", job.Job()) == {"system": "t2_vllm", "status": "not installed"}


def test_too_long_a_prompt_is_refused():
    with pytest.raises(ValueError, match="Lower --prompt"):
        update.random_rollout(update.Learner("tiny").lm, 510, 2, 5)


def test_random_factors_have_the_shapes_of_an_svd():
    weights = {"wide": torch.zeros(3, 5), "tall": torch.zeros(5, 3)}
    for name, parts in importlib.import_module("models").random_decompositions(weights):
        exact = torch.linalg.svd(weights[name], full_matrices=False)
        assert [part.shape for part in (parts.U, parts.s, parts.Vh)] == [part.shape for part in exact]


@pytest.mark.parametrize(("scores", "expected"), [("alternate", [1.0, 0.0, 1.0]), ("task", [0.0, 1.0, 1.0])])
def test_grading_keeps_the_tasks_own_scores(scores, expected):
    grading = job.Grading(job.Job(prompts=1, steps=1, scores=scores))
    example = grading.examples[0]
    assert [grading.score(example, text) for text in ("none", str(example.answer), str(example.answer))] == expected
    assert grading.given == [0.0, 1.0, 1.0]


def test_trl_trains_every_linear_it_adapts_and_grades_each_completion_once():
    pytest.importorskip("trl")
    small = job.Job(model="tiny", prompts=2, samples=3, new_tokens=5, steps=1, micro_batch_tokens=300)
    lm, grading = systems.load("tiny"), job.Grading(small)
    trainable = importlib.import_module("rl.grpo").run_trl(lm, grading, small, job.Meter(small.warmup))
    adapted = {name: p for name, p in lm.model.named_parameters() if "lora_" in name}
    moved = [bool((p != 0).any()) for name, p in adapted.items() if "lora_B" in name]
    assert moved == [True] * (2 * 7)  # layers * linears of a block
    assert trainable == sum(p.numel() for p in adapted.values())
    assert len(grading.given) == small.all_steps * small.prompts * small.samples
