"""evaluate.py refuses what would cost a run before it loads a model, and loses no completion by what fails later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from script_errors import error_of
from tiny_pool import save_pool

pytestmark = pytest.mark.commands
POOL = ("task=gcd", "+experts._target_=t2.experts.pool.ExpertPool.load", "+experts.experts=POOL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("early") / "pool")


@pytest.fixture
def evaluate(run_script: Callable[..., Any], folder: Path, tmp_path: Path) -> Callable[..., None]:
    """Run evaluate.py on two questions, with POOL in a word for the pool's folder."""

    def run(*words: str) -> None:
        given = [word.replace("POOL", str(folder)) for word in words]
        common = ("base_model=tiny", "logger=none", "limit=2", "sampling.max_new_tokens=2")
        run_script("evaluate", *common, f"hydra.run.dir={tmp_path / 'run'}", *given)

    return run


EARLY = {
    "misspelt": ((*POOL, "contrasts=['all - forn']"), "names 'forn', which is not scored on gcd; there are base,"),
    "form without controls": ((*POOL, "controls=null", "contrasts=['all - form']"), "controls=null leaves out"),
    "oracle without singles": ((*POOL, "singles=false", "contrasts=['all - oracle']"), "with singles=true"),
    "a control that may lose": (
        (*POOL, "controls.only_best=true", "contrasts=['all - base+shots']"),
        "names 'base+shots'",
    ),
    "an expert that is not given": ((*POOL, "contrasts=['expert - base']"), "names 'expert'"),
    "weights of no domain": ((*POOL, "strategy=fixed", "strategy.weights={maht:1.0}"), "Did you mean 'math'?"),
    "samples that are all the same": (("sampling.samples=3",), "sampling.samples is 3 at sampling.temperature=0"),
    "one task of no set": (("task=gcd", "only=products"), "give benchmarks=SET, or task=products in place of only"),
    "a task beside a set": (("task=gcd", "benchmarks=arithmetic"), "task=gcd is given beside a set of benchmarks"),
    "a key of that task": (("benchmarks=arithmetic", "task.test_size=9"), "task.test_size=9 is given beside a set"),
    "experts that are left open": (("experiment=paper/table2",), "experts.dispatch=VALUE experts.experts.code=VALUE"),
    "an experiment of train.py": (("experiment=demo",), "experiment=demo is one of train.py, and this is evaluate.py"),
}


@pytest.mark.parametrize("case", EARLY)
def test_it_is_refused_before_a_model_is_loaded(case: str, evaluate, monkeypatch, caplog, capsys) -> None:
    words, said = EARLY[case]
    monkeypatch.setattr("t2.models.tiny.tiny_model", lambda **_: pytest.fail("a model was loaded"))
    shown = error_of(lambda: evaluate(*words), caplog, capsys)
    assert said in shown, shown
    assert "Traceback" not in shown


def test_a_contrast_with_shots_that_the_context_does_not_hold_is_refused_before_anything_is_scored(
    evaluate, tmp_path, caplog, capsys
) -> None:
    words = ("task=gcd", "base_model.context_length=170", "contrasts=['base+shots - base']")
    assert "names 'base+shots', which is not scored on gcd" in error_of(lambda: evaluate(*words), caplog, capsys)
    assert not (tmp_path / "run" / "samples.jsonl").exists()


OTHER_BASE = ("base_model=any", "base_model.source=org/other")


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("evaluate", ("task=gcd", "expert=EXPERT", "logger=none"), "expert of 'math'"),
        ("evaluate", (*POOL, "strategy=uniform", "logger=none"), "expert of 'letters'"),
        ("adapt", ("expert=EXPERT", "prompt=hi", "logger=none"), "expert of 'math'"),
        ("export", ("expert=EXPERT", "out=OUT"), "expert of 'math'"),
        ("serve", (*POOL[1:], "port=0"), "expert of 'letters'"),
        ("train", ("task=gcd", "start_from=EXPERT", "logger=none"), "expert of 'math'"),
        ("train", (*POOL, "domain=a", "strategy=uniform", "logger=none"), "expert of 'letters'"),
    ],
)
def test_an_expert_of_another_base_model_is_refused_before_that_is_fetched(
    script: str,
    words: tuple[str, ...],
    said: str,
    run_script,
    folder: Path,
    tmp_path: Path,
    monkeypatch,
    caplog,
    capsys,
) -> None:
    """Loading a model only to say that the expert is of another costs minutes, and gigabytes from a hub."""
    monkeypatch.setattr("t2.models.loading.resolve", lambda *_: pytest.fail("a model was looked for"))
    filled = {"EXPERT": str(folder / "math.safetensors"), "POOL": str(folder), "OUT": str(tmp_path / "out")}
    given = ["=".join([key, filled.get(value, value)]) for key, _, value in (word.partition("=") for word in words)]
    shown = error_of(
        lambda: run_script(script, *OTHER_BASE, *given, f"hydra.run.dir={tmp_path / 'run'}"), caplog, capsys
    )
    assert f"The {said} was trained for tiny:llama, and base_model is org/other" in shown, shown
    assert "Choose its base_model (base_model=tiny)" in shown
    assert ("transfer=true" in shown) == (script != "train")


def test_a_contrast_of_every_kind_of_system_is_scored(evaluate, tmp_path: Path) -> None:
    names = ("form", "base+prefix", "best_single", "oracle", "uniform", "expert:math", "random:math", "random_2:math")
    contrasts = ", ".join(f"'all - {name}'" for name in names)
    evaluate(*POOL, "transfer_controls=[random]", "transfer_control_draws=2", f"contrasts=[{contrasts}]")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["contrast"] for one in results["contrasts"]] == [f"all - {name}" for name in names]
    assert results["selection"]["gcd"]["n"] == 2  # as many as are scored, since controls.limit is not given


def test_completions_are_kept_whatever_fails_after_them(evaluate, tmp_path: Path, monkeypatch) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("too late")

    monkeypatch.setattr("t2.cli.evaluate.summarize_controls", fails)
    with pytest.raises(SystemExit):
        evaluate("task=gcd", "controls=null")
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2


def test_a_mixing_weight_far_from_0_is_warned_of(evaluate, capsys) -> None:
    evaluate(*POOL, "controls=null", "strategy=fixed", "strategy.weights={math: -3}")
    assert "Mixing weights beyond 2: math -3." in capsys.readouterr().out


def test_one_task_of_a_set_is_still_scored_by_only(evaluate, tmp_path: Path) -> None:
    evaluate("benchmarks=arithmetic", "only=gcd", "controls=null")
    assert list(json.loads((tmp_path / "run" / "results.json").read_text())["scores"]) == ["gcd"]


def test_of_the_form_controls_only_the_best_may_be_scored(evaluate, tmp_path: Path) -> None:
    evaluate("task=gcd", "controls.only_best=true", "contrasts=['base - form']")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    chosen = results["selection"]["gcd"]
    assert len(chosen["scores"]) > 2
    assert set(results["scores"]["gcd"]) == {"base", chosen["form"]}
