"""evaluate.py with a pool, as a user runs it: every system on the same examples, and what is said of bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from script_errors import error_of
from tiny_pool import DOMAINS, save_pool

from t2.experts.expert import Expert
from t2.tasks.prompt_hash import prompt_hashes

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
FEW_SHOT = (
    "shots=3",
    "strategies.fs.search.population=6",
    "strategies.fs.search.iterations=2",
    "strategies.fs.search.elite_share=0.5",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("evaluate") / "pool")


@pytest.fixture
def evaluate(run_script: Run, folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run evaluate.py with the pool; returns results.json."""

    def run(*arguments: str) -> dict[str, Any]:
        pool = (
            []
            if "no pool" in arguments
            else ["+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={folder}"]
        )
        alone = [] if "controls" in arguments else ["controls=null", "all_at_1=false"]
        given = [*alone, *(argument for argument in arguments if argument not in ("no pool", "controls"))]
        run_script(
            "evaluate", "base_model=tiny", "logger=none", "limit=4", "sampling.max_new_tokens=3", *pool,
            f"hydra.run.dir={tmp_path / 'run'}", *given,
        )  # fmt: skip
        results: dict[str, Any] = json.loads((tmp_path / "run" / "results.json").read_text())
        return results

    return run


def test_a_question_that_is_too_long_is_named_before_anything_is_scored(evaluate, tmp_path: Path, capsys) -> None:
    rows = [{"question": "q" * (5 if n != 3 else 900), "answer": f"#### {n}"} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit):
        evaluate("no pool", "task=gsm8k", f"task.data_files={{test:{tmp_path}/rows.jsonl}}")
    assert "Row 3 of the test split of gsm8k is not usable" in capsys.readouterr().out
    assert not (tmp_path / "run" / "results.json").exists()


def test_controls_stand_beside_the_systems_and_are_what_they_are_compared_with(evaluate) -> None:
    results = evaluate(
        "controls", "task=products", "strategy=prompt", "controls.limit=2",
        "contrasts=['prompt - form', 'prompt - best_single']",
    )  # fmt: skip
    controls = ["base+instruction", "base+shots", "base+prefix"]
    systems = ["base", *controls, "expert:letters", "expert:math", "uniform", "all", "prompt", "best_single", "oracle"]
    assert list(results["scores"]["products"]) == systems
    chosen = results["selection"]["products"]
    assert (chosen["split"], chosen["n"]) == ("val", 2)
    assert list(chosen["scores"]) == ["base", *controls, "expert:letters", "expert:math"]
    assert list(results["paired_form"]["products"]) == systems[4:]
    assert results["null"]["products"]["score"] > 0
    assert results["truncated"]["products"].keys() == set(systems)
    assert [(one["first"], one["second"]) for one in results["contrasts"]] == [
        ("prompt", chosen["form"]),
        ("prompt", "best_single"),
    ]
    unknown = {"expert:letters": {"products": None}, "expert:math": {"products": None}}
    assert results["seen"] == unknown | {"base+shots": {"products": 0}}


def test_questions_that_an_expert_was_trained_on_are_refused_unless_asked_for(evaluate, folder, caplog, capsys) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        task = instantiate(compose("evaluate", overrides=["task=gcd"]).task)
    expert = Expert.load(folder / "math.safetensors")
    known = replace(expert.metadata, prompts=frozenset(prompt_hashes(task.split("test")[:2])))
    path = folder.parent / "knows.safetensors"
    Expert(expert.scales, known).save(path)
    arguments = ("no pool", "task=gcd", f"expert={path}")
    assert "(expert: 2 of gcd)" in error_of(lambda: evaluate(*arguments), caplog, capsys)
    assert evaluate(*arguments, "allow_seen=true")["seen"] == {"expert": {"gcd": 2}}
    assert "Questions seen before, in training, validation or solved examples:\nexpert: 2 of gcd" in (
        capsys.readouterr().out
    )


def test_every_system_is_scored_on_the_same_examples(evaluate, tmp_path) -> None:
    results = evaluate(
        "benchmarks=arithmetic", "~benchmarks.basic_arithmetic", "~benchmarks.chain_sum", "strategy=prompt",
        "+strategy@strategies.fs=few_shot", *FEW_SHOT, "benchmark_domains={gcd: math, products: null}",
        "strategies.fs.shots=2",
    )  # fmt: skip
    assert results["shots"] == 2
    systems = ["base", "expert:letters", "expert:math", "uniform", "prompt", "fs"]
    assert {task: list(table) for task, table in results["scores"].items()} == {"gcd": systems, "products": systems}
    assert {task: list(table) for task, table in results["paired"].items()} == {
        "gcd": systems[1:],
        "products": systems[1:],
    }
    assert {entry["n"] for table in results["scores"].values() for entry in table.values()} == {4}
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    asked = {
        (task, system): tuple(line["prompt"] for line in lines if (line["task"], line["system"]) == (task, system))
        for task in ("gcd", "products")
        for system in systems
    }
    assert len(set(asked.values())) == 2
    assert (results["task"], results["strategy"]) == (["products", "gcd"], ["prompt", "fs"])
    assert results["experts"] == sorted(DOMAINS)
    for table in results["pass_seconds"].values():
        assert list(table) == systems
        assert table["base"].keys() == {"pass2"}
        assert all(table[system].keys() == {"fit", "pass1", "pass2"} for system in systems[1:])
    spent = results["tokens"]["gcd"]
    assert spent["base"].keys() == {"prompt", "completion", "pass2"}
    assert spent["base"]["pass2"] > 0
    assert [spent[system]["fit"] > 0 for system in ("fs", "prompt", "uniform")] == [True, False, False]
    assert [spent[system]["pass1"] > 0 for system in ("fs", "prompt", "uniform")] == [False, True, False]
    assert spent["uniform"]["prompt"] == spent["base"]["prompt"] > 0
    assert results["seconds"].keys() >= {"svd", "rollout", "fit", "pass1", "pass2", "total"}
    spent = {"saved": 0.0, **results["seconds"]}
    total, saved = spent.pop("total"), spent.pop("saved")
    assert sum(spent.values()) - saved < total  # no phase is counted twice
    weights = results["mixing_weights"]["gcd"]
    assert weights["expert:math"] == {"letters": 0.0, "math": 1.0}
    assert weights["uniform"] == {"letters": 0.5, "math": 0.5}
    assert weights["fs"].keys() == {"letters", "math"}
    confusion = results["confusion"]
    assert confusion.keys() == {"prompt"}  # few_shot names no label
    assert confusion["prompt"]["labels"] == ["letters", "math", "other"]
    assert [sum(row) for row in confusion["prompt"]["counts"]] == [0, 4, 0]  # gcd alone has a domain
    assert (tmp_path / "run" / "confusion_prompt.png").read_bytes().startswith(b"\x89PNG")


def test_a_mixture_that_has_answered_is_not_asked_again_and_costs_what_it_cost(evaluate, tmp_path, capsys) -> None:
    arguments = ("task=gcd", "strategy=confidence", "pass2=merged", "+strategy@strategies.twin=confidence")
    kept = evaluate(*arguments, "strategies.twin.measure=first_entropy")
    assert "answers were taken from those that the same weights had given" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run")
    plain = evaluate(*arguments, "strategies.twin.measure=first_entropy", "keep_answers=false")
    assert kept["seconds"]["saved"] > 0.0
    assert "saved" not in plain["seconds"]
    assert kept["scores"] == plain["scores"]
    assert kept["mixing_weights"] == plain["mixing_weights"]
    twin = kept["tokens"]["gcd"]["twin"]
    assert twin["pass2"] > 0  # charged, though nothing was decoded
    assert kept["tokens"]["gcd"]["twin"] == plain["tokens"]["gcd"]["twin"]


def test_a_pool_without_a_strategy(evaluate) -> None:
    results = evaluate("task=gcd")
    assert list(results["scores"]["gcd"]) == ["base", "expert:letters", "expert:math", "uniform"]
    assert (results["strategy"], results["confusion"]) == ("fixed", {})


def test_an_expert_beside_a_pool(evaluate, folder) -> None:
    results = evaluate("task=gcd", "singles=false", f"expert={folder / 'math.safetensors'}")
    assert list(results["scores"]["gcd"]) == ["base", "expert", "uniform"]


def test_the_expert_alone_and_in_the_pool_answer_alike(evaluate, folder, tmp_path) -> None:
    evaluate("task=gcd", f"expert={folder / 'math.safetensors'}")
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    answers = {
        system: [line["answer"] for line in lines if line["system"] == system]
        for system in ("base", "expert", "expert:math")
    }
    assert answers["expert"] == answers["expert:math"] != answers["base"]


def test_benchmarks_bring_their_domains(evaluate) -> None:
    results = evaluate(
        "benchmarks=arithmetic", "~benchmarks.basic_arithmetic", "~benchmarks.chain_sum", "~benchmarks.products",
        "+benchmarks.benchmark_domains={gcd: letters}", "strategy=prompt",
    )  # fmt: skip
    assert results["scores"].keys() == {"gcd"}
    assert [sum(row) for row in results["confusion"]["prompt"]["counts"]] == [4, 0, 0]


def test_a_task_without_domains_is_noted(evaluate, capsys) -> None:
    results = evaluate("task=gcd", "strategy=prompt", "singles=false", "uniform=false")
    assert results["confusion"] == {}
    assert "No domain, so not in a confusion matrix: gcd" in capsys.readouterr().out


BAD_INPUT = {
    "no pool": (("no pool", "strategy=prompt"), ["prompt would choose among the experts of a pool: give experts=POOL"]),
    "benchmark without a domain": (("benchmark_domains={gdc: math}",), ["'gcd' is a benchmark without a domain"]),
    "domain that is no label": (("benchmark_domains={gcd: maths}",), ["'maths'", "Did you mean 'math'"]),
    "two of one name": (
        ("strategy=prompt", "+strategy@strategies.prompt=prompt"), ["Two strategies are called 'prompt'"],
    ),
    "more shots than examples": (
        ("strategy=few_shot", "shots=5000"), ["shots=5000, and the train split of gcd has 90 examples"],
    ),
    "support from the test split": (
        ("strategy=few_shot", "support_split=test"), ["support_split is 'test'; allowed: train, val"],
    ),
    "support that is scored": (
        ("strategy=few_shot", "split=train", "limit=null"), ["support examples are among the 90 test examples"],
    ),
    "unknown strategy": (("strategy=promt",), ["Did you mean 'prompt'"]),
    "unknown way of pass 2": (("strategy=prompt", "pass2=row"), ["allowed: auto, merged, per_example"]),
    "nobody to grade": (("score_workers=0",), ["score_workers is 0; allowed: at least 1"]),
    "pool of another model": (("base_model.seed=1",), ["transfer=true"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_has_its_own_message(case: str, evaluate, caplog, capsys) -> None:
    overrides, expected = BAD_INPUT[case]
    shown = error_of(lambda: evaluate("task=gcd", *overrides), caplog, capsys)
    for part in expected:
        assert part in shown, shown
    assert "Traceback" not in shown
