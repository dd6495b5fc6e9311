"""adapt.py as a user runs it: finding a mixture, completing prompts of every source, and messages for bad input."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from script_errors import error_of
from tiny_pool import save_pool

from t2.experts.centroids import Centroids
from t2.experts.mixture_file import load_mixture
from t2.experts.pool import ExpertPool

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
SEARCH = ("strategy.search.population=6", "strategy.search.iterations=2", "strategy.search.elite_share=0.5")
FIT = ("strategy=few_shot", "task=gcd", "shots=3", *SEARCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("adapt") / "pool")


@pytest.fixture
def adapt(run_script: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run adapt.py with the pool; returns what it printed."""

    def run(*arguments: str, run: str = "run") -> str:
        capsys.readouterr()
        pool = (
            []
            if "no pool" in arguments
            else ["+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={folder}"]
        )
        given = [argument for argument in arguments if argument != "no pool"]
        run_script(
            "adapt", "base_model=tiny", "sampling.max_new_tokens=3", *pool, f"hydra.run.dir={tmp_path / run}", *given
        )
        return capsys.readouterr().out

    return run


def test_a_mixture_is_found_saved_and_applied_later(adapt, folder, tmp_path) -> None:
    shown = adapt(*FIT, "strategy.shots=2")
    found = load_mixture(tmp_path / "run" / "mixture.json", ExpertPool.load(folder))
    assert len(found.weights) == 2
    assert "Fitness on 2 support examples of gcd" in shown
    header, _, first, second = shown[shown.index("iteration") :].splitlines()[:4]
    assert header.split() == ["iteration", "best", "mean", "weights", "±"]
    assert (first.split()[0], second.split()[0]) == ("0", "1")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["command"], results["task"], results["strategy"]) == ("adapt", "gcd", "few_shot")
    assert results["support"]["n"] == 2
    assert list(results["mixing_weights"]["gcd"]["few_shot"].values()) == pytest.approx(list(found.means))
    later = adapt("strategy=fixed", f"strategy.mixture={tmp_path / 'run'}", "prompt=hello", run="later")
    for mean in found.means:
        assert f"{mean:.3f}" in later
    assert "[fixed]" in later


def test_the_solved_examples_behind_a_saved_mixture_count_as_seen(
    adapt, run_script, folder, tmp_path, caplog, capsys
) -> None:
    adapt(*FIT, "strategy.shots=3", "support_split=val")
    pool = ("+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={folder}")
    words = ("base_model=tiny", "sampling.max_new_tokens=2", "task=gcd", "split=val", "controls=null", *pool)
    fixed = ("strategy=fixed", f"strategy.mixture={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'scored'}")
    assert "mixture.json: 3 of gcd" in error_of(lambda: run_script("evaluate", *words, *fixed), caplog, capsys)


@pytest.mark.parametrize("prompt", ["${", "${oc.env:HOME}"])
def test_a_prompt_that_looks_like_an_interpolation_is_none(adapt, tmp_path, prompt: str) -> None:
    assert "[uniform]" in adapt("strategy=uniform", f"prompt={prompt}")
    assert prompt in (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text()


def test_a_prompt_shows_scores_weights_and_both_answers(adapt) -> None:
    shown = adapt("strategy=prompt_soft", "prompt=What is 3 + 4?")
    order = [
        shown.index(part) for part in ("[base]", "[pass 1, prompt_soft: ", "Scores", "Mixing weights", "[prompt_soft]")
    ]
    assert order == sorted(order)
    scores = shown[shown.index("Scores") :].splitlines()[1:4]
    assert [line.split()[0] for line in scores] == ["letters", "math", "other"]
    assert sum(float(line.split()[-1]) for line in scores) == pytest.approx(1.0, abs=2e-3)


def test_an_expert_and_a_strategy_side_by_side(adapt, folder) -> None:
    shown = adapt("strategy=uniform", f"expert={folder / 'math.safetensors'}", "prompt=hello")
    assert all(f"[{system}]" in shown for system in ("base", "expert", "uniform"))


def test_all_samples_of_a_prompt_are_shown(adapt) -> None:
    shown = adapt("strategy=uniform", "prompt=hello", "sampling.samples=2", "sampling.temperature=1")
    labels = ["[base, 1 of 2]", "[base, 2 of 2]", "[uniform, 1 of 2]", "[uniform, 2 of 2]"]
    assert [line for line in shown.splitlines() if line in labels] == labels


def test_a_strategy_that_was_just_fitted_answers_prompts(adapt) -> None:
    assert "[few_shot]" in adapt(*FIT, "prompt=hello")


def test_centroids_are_made_of_a_dispatch_task_saved_and_applied_later(adapt, folder, tmp_path) -> None:
    domains = [f"~task.domains.{label}" for label in ("sums", "reading")]
    domains += ["+task@task.domains.math=chain_sum", "+task@task.domains.letters=letter_counting", "~task.descriptions"]
    sizes = ("task.train_size=4", "task.val_size=3", "task.test_size=2")
    shown = adapt("strategy=centroid", "task=dispatch", *domains, *sizes, "shots=0")
    made = Centroids.load(tmp_path / "run")
    assert set(made.labels) == {"math", "letters", "other"}
    assert f"layer {made.layer} " in shown
    later = adapt("strategy=centroid", f"+experts.centroids={tmp_path / 'run'}", "prompt=hello", run="later")
    assert "[pass 1, centroid: " in later
    assert "[centroid]" in later


def test_a_file_has_a_prompt_a_line(adapt, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("first: a, b\nsecond\n")
    shown = adapt("strategy=uniform", f"prompt_file={tmp_path / 'prompts.txt'}")
    assert [line for line in shown.splitlines() if line.startswith(">>>")] == [">>> first: a, b", ">>> second"]


def test_standard_input_has_a_prompt_a_line(adapt, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("one\ntwo\ndrei und fünf".encode())))
    assert adapt("strategy=uniform", "prompt=-").count("[uniform]") == 3


def test_standard_input_that_is_not_utf8_is_named(adapt, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("fünf".encode("latin-1"))))
    with pytest.raises(SystemExit):
        adapt("strategy=uniform", "prompt=-")
    assert "standard input is not UTF-8 text" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["\n", ""])  # an empty line, the end of the input
def test_the_loop_asks_until_an_empty_line_or_the_end(adapt, monkeypatch, end: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"one\ntwo\n{end}" + "three\n" * bool(end)))
    assert adapt("strategy=uniform", "interactive=true").count("[uniform]") == 2


def test_a_prompt_that_is_too_long_does_not_end_the_loop(adapt, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 9000 + "\ntwo\n"))
    shown = adapt("strategy=uniform", "interactive=true")
    assert "Shorten the prompt" in shown
    assert shown.count("[uniform]") == 1


BAD_INPUT = {
    "more shots of a strategy than it is given": (
        (*FIT, "shots=2", "strategy.shots=4"),
        ["strategy.shots is 4, and shots=2 are given to it: set shots=4"],
    ),
    "empty prompt": (("strategy=prompt", "prompt="), ["The prompt is empty"]),
    "blank prompt": (("strategy=prompt", "prompt=  "), ["The prompt is empty"]),
    "two places": (("strategy=prompt", "prompt=a", "interactive=true"), ["prompt and interactive are given"]),
    "nothing to answer": (("strategy=prompt",), ["nothing to answer: give prompt=TEXT"]),
    "nothing to adapt with": (("no pool", "prompt=a"), ["nothing to adapt with: give expert=RUN"]),
    "strategy without a pool": (("no pool", "strategy=prompt", "prompt=a"), ["experts=POOL is not given"]),
    "pool without a strategy": (("prompt=a",), ["strategy=S is not given"]),
    "few-shot without a task": (("strategy=few_shot", "prompt=a"), ["give task=T", "strategy.mixture=RUN"]),
    "a task that nothing is fitted to": (
        ("strategy=uniform", "task=gcd", "prompt=a"),
        ["task=gcd is given, and nothing is fitted", "Leave task out"],
    ),
    "centroids of another task": (("strategy=centroid", "task=gcd"), ["made of a dispatch task, and gcd is none"]),
    "no centroids": (("strategy=centroid", "prompt=a"), ["needs the centroids of this pool"]),
    "more shots than examples": ((*FIT, "shots=5000"), ["shots=5000, and the train split of gcd has 90"]),
    "no prompt file": (("strategy=prompt", "prompt_file=no/such.txt"), ["prompt_file=no/such.txt: there is no such"]),
    "samples that are all the same": (
        ("strategy=prompt", "prompt=a", "sampling.samples=2"),
        ["sampling.temperature=0"],
    ),
    "weights of no domain": (
        ("strategy=fixed", "strategy.weights={maht: 1}", "prompt=a"),
        ["'maht'", "Did you mean 'math'?"],
    ),
    "pool that is not there": (("strategy=prompt", "prompt=a", "experts.experts=no/such"), ["No folder of experts"]),
    "mixture that is not there": (("strategy=fixed", "strategy.mixture=no/such", "prompt=a"), ["No mixture file"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_has_its_own_message(case: str, adapt, caplog, capsys) -> None:
    overrides, expected = BAD_INPUT[case]
    shown = error_of(lambda: adapt(*overrides), caplog, capsys)
    for part in expected:
        assert part in shown, shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(("text", "message"), [("a\n\nb\n", "Line 2 of"), ("", "There is no prompt in")])
def test_empty_lines_and_files_are_refused(adapt, tmp_path, caplog, capsys, text: str, message: str) -> None:
    (tmp_path / "prompts.txt").write_text(text)
    prompts = f"prompt_file={tmp_path / 'prompts.txt'}"
    assert message in error_of(lambda: adapt("strategy=prompt", prompts), caplog, capsys)


def test_a_mixture_of_another_pool_is_refused(adapt, tmp_path, caplog, capsys) -> None:
    adapt(*FIT)
    other = save_pool(tmp_path / "other", ("letters", "code"))
    arguments = ("strategy=fixed", f"strategy.mixture={tmp_path / 'run'}", f"experts.experts={other}", "prompt=a")
    assert "pool" in error_of(lambda: adapt(*arguments, run="later"), caplog, capsys)
