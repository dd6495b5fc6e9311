"""bench/measure.py: ratios, turns, tables and arguments; and what stops a measurement that cannot be compared."""

from __future__ import annotations

import argparse
import importlib
import json
from types import SimpleNamespace

import pytest

from t2.types import Completion, Example

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
measure = importlib.import_module("measure")
cem = importlib.import_module("cem")
dispatch = importlib.import_module("dispatch")
step = importlib.import_module("step")
two_pass = importlib.import_module("two_pass")
job = importlib.import_module("rl.job")
report = importlib.import_module("rl.report")

MISSING = {"system": "t2_vllm", "status": "not installed"}


def measured(name: str = "t2_hf", seconds: float = 2.0) -> dict:
    phases = {"step": seconds, "rollout": seconds / 2, "reward": 0.0, "update": seconds / 2}
    about = {"prompts_sha256": "a", "machine": {"cpu": "x"}, "tokens_per_step": 30, "trainable_parameters": 7}
    memory = {"held_bytes": 1_000_000, "peak_bytes": 3_000_000}
    return {"system": name, "status": "measured", "steps": [phases], "memory": memory} | about


def saved(folder, name: str, *rows: dict, **arguments: object):
    path = folder / name
    path.write_text(json.dumps(report.report({"prompts": 2} | arguments, rows)))
    return path


WAYS = {"merged": [4.0, 2.0, 18.0], "per_example": [1.0, 8.0, 9.0]}
RATIOS = {
    "median over rounds of the ratio within a round": (lambda: measure.ratio([1.0, 6.0, 2.0], [1.0, 2.0, 1.0]), 2.0),
    "two_pass: auto merges": (lambda: two_pass.auto_to_better(WAYS, "merged"), 2.0),
    "two_pass: auto gives states to examples": (lambda: two_pass.auto_to_better(WAYS, "per_example"), 1.0),
    "rl_step: seconds and peak to TRL": (
        lambda: report.report({}, [measured(), MISSING, measured("trl_lora", 4.0)])["systems"][0]["ratio_to_trl_lora"],
        {"step": 0.5, "rollout": 0.5, "update": 0.5, "peak": 1.0},
    ),
    "rl_step: none without TRL": (lambda: report.report({}, [measured()])["systems"][0]["ratio_to_trl_lora"], None),
}


@pytest.mark.parametrize("case", RATIOS)
def test_ratios(case):
    compute, expected = RATIOS[case]
    assert compute() == expected


def test_two_pass_compares_the_memory_of_few_and_many_way_by_way(monkeypatch):
    def child(script, argv, one):
        return {"held_bytes": 1, "peak_bytes": {"merged": 3, "per_example": 2}[argv[-1]] * 10**6 * (int(one) + 100)}

    monkeypatch.setattr(two_pass, "in_child", child)
    found = two_pass.compare_memory(["--model", "tiny"])
    assert [(row["pass2"], row["peak_ratio"]) for row in found] == [("merged", 5.5), ("per_example", 5.5)]
    assert two_pass.memory_table(found).splitlines()[1].split() == ["merged", "600", "3,300", "5.500"]


def test_rollout_table_has_ratios_to_both_references():
    about = {"status": "measured", "sync_seconds": [0.1], "tokens": 100, "drift": None, "memory": None}
    spent = {"generate": 4.0, "t2_hf": 2.0, "t2_vllm": 1.0}
    rows = [about | {"system": name, "seconds": [seconds]} for name, seconds in spent.items()]
    lines = importlib.import_module("rollout").rollout_table(rows).splitlines()
    assert [line.split()[4:6] for line in lines[1:]] == [["1.000", "0.500"], ["2.000", "1.000"], ["4.000", "2.000"]]


def test_systems_take_turns():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    assert measure.take_turns(runs, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert order == ["a", "b", "a", "b"]


def test_table_aligns_rows_and_keeps_remarks():
    row = {"system": "t2_hf", "seconds": 1.5, "parameters": 12345} | measure.megabytes(measured()["memory"])
    lines = measure.table([row, MISSING]).splitlines()
    assert lines[1].split() == ["t2_hf", "1.500", "12,345", "3.000", "2.000"]
    assert lines[2].split() == ["t2_vllm", "not", "installed"]
    assert len(lines[0]) == len(lines[1])


def test_meter_charges_the_rest_of_a_step_to_the_update():
    meter = job.Meter(5)
    for seconds in (1.0, 2.0):
        meter.begin()
        meter.charge("rollout", seconds)
        meter.end()
    assert [one["rollout"] for one in meter.steps] == [1.0, 2.0]
    assert meter.steps[1]["update"] == pytest.approx(meter.steps[1]["step"] - 2.0)


def noted(prompt: list[int], tokens: int):
    meter = job.Meter(1)
    meter.completed(prompt, tokens)
    return meter


ONE, OTHER = (Completion((1,), (token,), (0.0,), "", "stop") for token in (1, 2))
LOSSES = {"floor_forward": -30.0, "floor": -30.0}
NOT_COMPARABLE = {
    "cem: other completions": (lambda: cem.check_completions([[ONE, ONE]], [[OTHER, OTHER]]), "Only 0 of 2"),
    "step: another loss": (lambda: step.check_losses(LOSSES | {"svf": -30.3}, 10, 1e-3), "svf differ"),
    "step: no loss": (lambda: step.check_losses(LOSSES | {"svf": float("nan")}, 10, 1e-3), "svf differ"),
    "rl_step: other prompts": (lambda: noted([1, 2], 5).check("x", [[1, 3]], 5), "did not complete the prompts"),
    "rl_step: shorter completions": (lambda: noted([1, 2], 4).check("x", [[1, 2]], 5), "4 to 4 tokens, not 5"),
    "rollout: shorter completions": (lambda: measure.check_lengths("x", [3, 4], 4), "3 to 4 tokens, not 4"),
}


@pytest.mark.parametrize("case", NOT_COMPARABLE)
def test_what_cannot_be_compared_is_refused(case):
    check, message = NOT_COMPARABLE[case]
    with pytest.raises(RuntimeError, match=message):
        check()


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        (measured("trl_lora"), {"prompts": 3}, "another prompts"),
        (measured("trl_lora") | {"prompts_sha256": "b"}, {}, "different prompts_sha256"),
        (measured("trl_lora") | {"machine": {"cpu": "y"}}, {}, "different machine"),
        (measured(), {}, "t2_hf was measured twice"),
    ],
)
def test_merge_refuses_what_cannot_be_compared(tmp_path, row, arguments, message):
    with pytest.raises(ValueError, match=message):
        report.merge([saved(tmp_path, "a.json", measured()), saved(tmp_path, "b.json", row, **arguments)])


@pytest.mark.parametrize("order", [1, -1])
def test_merge_joins_reports_and_keeps_the_measured_row(tmp_path, order):
    here = saved(tmp_path, "a.json", MISSING, measured("trl_lora", 4.0))
    there = saved(tmp_path, "b.json", measured("t2_vllm", 1.0))
    rows = report.merge([here, there][::order])["systems"]
    assert [(row["system"], row["status"]) for row in rows] == [("t2_vllm", "measured"), ("trl_lora", "measured")]
    assert rows[0]["ratio_to_trl_lora"]["step"] == 0.25


@pytest.mark.parametrize(
    ("bench", "arguments", "message"),
    [
        ("rl_step", ["--systems", "t2_hf,trl"], "allowed: t2_hf, t2_vllm, trl_lora"),
        ("rl_step", ["--samples", "1"], "got 1; allowed: 2 or more"),
        ("rl_step", ["--grow-samples", "1,x"], "got x; allowed: 1 or more"),
        ("two_pass", ["--batches", "0"], "got 0; allowed: 1 or more"),
        ("grading", ["--answers", "2", "--hostile", "3"], "0 to --answers"),
    ],
)
def test_wrong_arguments_are_refused(bench, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(bench).main(arguments)
    assert message in f"{capsys.readouterr().err}{stopped.value}"


def test_a_child_gets_the_arguments_and_only_its_part(tmp_path):
    script = tmp_path / "bench.py"
    script.write_text("import json, sys\nopen(sys.argv[-1], 'w').write(json.dumps(sys.argv[1:-1]))")
    assert measure.in_child(str(script), ["--rows", "3"], "svf") == ["--rows", "3", "--one", "svf", "--output"]


def test_the_record_has_origin_and_arguments(tmp_path, capsys):
    args = argparse.Namespace(rows=3, one=None, output=tmp_path / "record.json")
    measure.finish(args, "the table", {"systems": []})
    record = json.loads(args.output.read_text())
    assert record.keys() == {"machine", "versions", "git_commit", "arguments", "systems"}
    assert (record["arguments"], capsys.readouterr().out) == ({"rows": 3}, "the table\n")
    assert {"torch", "peft"} <= record["versions"].keys()


def test_a_way_of_asking_is_timed_after_a_few_prompts() -> None:
    asked: list[int] = []

    def choose(_: object, prompts: list[Example]) -> list[SimpleNamespace]:
        asked.append(len(prompts))
        return [SimpleNamespace(label="a")] * len(prompts)

    examples = [Example("x", answer="a", metadata={"question": "x", "task": "t"})] * 20
    model = SimpleNamespace(pool=SimpleNamespace(domains=("a",)))
    measured = dispatch.measure(SimpleNamespace(choose=choose), model, examples)
    assert asked == [dispatch.WARM_UP, 20]
    assert measured["accuracy"] == 1
