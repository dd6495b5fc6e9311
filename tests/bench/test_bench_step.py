"""bench/step.py on the tiny model: the same loss everywhere, gradients only where they belong, a complete report."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from torch import nn

pytest.importorskip("peft")
step = importlib.import_module("step")
systems = importlib.import_module("step_systems")

TINY = ["--model", "tiny", "--rows", "3", "--prompt", "9", "--completion", "4"]
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads that wait for each other make tiny products a hundred times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str):
    return systems.build(name, "tiny", "float32", "cpu")


def work_for(system, *, rows: int = 3):
    return systems.Work.random(system.lm, rows, 9, 4)


def reached(name: str) -> set[str]:
    """The parameters of a system's model whose gradient is computed in one step."""
    system = build(name)
    found: set[str] = set()
    for parameter_name, parameter in system.lm.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, it=parameter_name: found.add(it))
    system.step(work_for(system))
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "step.json"
    step.main([*TINY, "--repeats", "2", "--no-memory", "--output", str(path)])
    return json.loads(path.read_text())


def test_report_has_its_keys(report):
    assert set(report) == {"machine", "versions", "git_commit", "arguments", "systems"}
    assert report["machine"].keys() == {"cpu", "threads", "gpu"}
    assert {"torch", "transformers", "peft"} <= report["versions"].keys()
    assert report["arguments"]["rows"] == 3


def test_report_has_every_system_with_all_raw_timings(report):
    assert [row["system"] for row in report["systems"]] == list(systems.SYSTEMS)
    for row in report["systems"]:
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0


def test_ratios_are_relative_to_their_system(report):
    by_name = {row["system"]: row for row in report["systems"]}
    assert by_name["floor"]["ratio_to_floor"] == 1.0
    assert by_name["lora_all"]["ratio_to_lora_all"] == 1.0


def test_losses_are_equal_at_the_start(report):
    losses = [row["loss"] for row in report["systems"]]
    assert max(losses) - min(losses) < 1e-3
    assert abs(losses[0]) > 0.1


def test_different_losses_are_refused():
    with pytest.raises(RuntimeError, match="svf differ"):
        step.check_losses({"floor_forward": -30.0, "floor": -30.0, "svf": -30.3}, tokens=10, tolerance=1e-3)


def test_nan_loss_is_refused():
    with pytest.raises(RuntimeError, match="floor differ"):
        step.check_losses({"floor_forward": -30.0, "floor": float("nan")}, tokens=10, tolerance=1e-3)


def test_table_has_a_line_per_system(report):
    lines = step.table(report["systems"]).splitlines()
    assert [line.split()[0] for line in lines] == ["system", *systems.SYSTEMS]


def test_table_shows_the_growth_of_a_step():
    row = {"system": "svf", "trainable_parameters": 1, "seconds": [1.0], "ratio_to_floor": 1.0}
    row |= {"ratio_to_lora_all": 1.0, "memory": {"held_bytes": 2_000_000, "peak_bytes": 5_000_000}}
    assert step.table([row]).splitlines()[1].split()[-2:] == ["5", "3"]


def test_one_prints_memory_as_the_last_line(capsys):
    step.main([*TINY, "--one", "floor"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < found["held_bytes"] <= found["peak_bytes"]


@pytest.mark.parametrize("name", ["floor_forward", "floor"])
def test_floors_reach_no_parameter(name):
    assert reached(name) == set()
    assert build(name).trainable == []


def test_floor_goes_back_to_the_embeddings():
    system = build("floor")
    seen: list[torch.Tensor] = []
    system.lm.model.get_input_embeddings().register_forward_hook(lambda _, __, out: seen.append(out))
    system.step(work_for(system))
    assert seen[0].grad is not None
    assert bool((seen[0].grad != 0).any())


def test_svf_reaches_its_vectors_alone():
    found = reached("svf")
    assert {name.split(".")[-3] for name in found} == LINEARS
    assert all(name.endswith("parametrization.z") for name in found)


def test_lora_all_reaches_every_linear():
    found = reached("lora_all")
    assert {name.split(".")[-4] for name in found} == LINEARS
    assert all("lora_A" in name or "lora_B" in name for name in found)


def test_lora_qv_reaches_q_and_v():
    found = reached("lora_qv")
    assert {name.split(".")[-4] for name in found} == {"q_proj", "v_proj"}


def test_authors_compute_a_dense_gradient_for_every_linear():
    found = reached("authors")
    assert {name.split(".")[-2] for name in found} == LINEARS
    assert all(name.endswith("proj.weight") for name in found)


def test_authors_and_svf_give_the_same_gradient_away_from_the_start():
    gradients = []
    for name in ("svf", "authors"):
        system = build(name)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for z in system.trainable:
                z.add_(0.2 * torch.randn(z.shape, generator=random))
        system.step(work_for(system))
        gradients.append(torch.cat([z.grad for z in system.trainable]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_steps_do_not_add_up_their_gradients():
    for name in ("svf", "authors", "lora_all"):
        system = build(name)
        work = work_for(system)
        system.step(work)
        once = [parameter.grad.clone() for parameter in system.trainable]
        system.step(work)
        for before, parameter in zip(once, system.trainable, strict=True):
            torch.testing.assert_close(before, parameter.grad)


def test_authors_keep_no_dense_gradient_between_steps():
    system = build("authors")
    system.step(work_for(system))
    linears = [module for module in system.lm.model.modules() if isinstance(module, nn.Linear)]
    assert all(module.weight.grad is None for module in linears)


def test_half_precision_systems_agree():
    losses = []
    for name in systems.SYSTEMS:
        system = systems.build(name, "tiny", "bfloat16", "cpu")
        losses.append(system.step(work_for(system)) / 12)
    assert max(losses) - min(losses) < 5e-2


def test_too_long_a_prompt_is_refused():
    system = build("floor")
    with pytest.raises(ValueError, match="Lower --prompt"):
        systems.Work.random(system.lm, 1, 510, 4)


def test_no_repeats_are_refused(capsys):
    with pytest.raises(SystemExit):
        step.main([*TINY, "--repeats", "0"])
    assert "allowed: 1 or more" in capsys.readouterr().err
