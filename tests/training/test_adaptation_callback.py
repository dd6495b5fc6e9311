"""The adaptation callback: what it measures and writes, that it reads no test split, and that training ignores it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LetterTask
from tiny_pool import save_pool, tiny_generator, tiny_pool
from training_run import fit, flat, make_module
from wandb_offline import read_runs

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.few_shot import FewShot
from t2.adaptation.search import SearchSettings
from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.run.metrics_file import read_metrics, read_steps
from t2.run.results import ADAPTATION_FILE, CONFUSION_FILE
from t2.tasks.base import Split, Task
from t2.training.adaptation_callback import Adaptation
from t2.training.callbacks import Checkpoints
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.types import Example

SEARCH = SearchSettings(population=6, iterations=2, elite_share=0.5)


class Watchful(LetterTask):
    """Remembers which splits were asked for."""

    asked: list[str] = []  # noqa: RUF012

    def split(self, split: Split) -> Sequence[Example]:
        self.asked.append(split)
        return super().split(split)


class Trained:
    """Applies the expert in training, uses global random numbers, and remembers what pool it met."""

    name = "trained"

    def __init__(self) -> None:
        self.met: list[tuple[str, ...]] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        torch.rand(3), random.random()

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        self.met.append(model.pool.domains)
        mixture = Mixture.of(*(float(domain == "letters") for domain in model.pool.domains))
        self.states.append(model.pool.state(mixture))
        return [Choice(mixture, "letters")] * len(examples)


@pytest.fixture(scope="module")
def pool() -> ExpertPool:
    return tiny_pool(tiny_generator(), ("math", "code"))


def adaptation(**changes: Any) -> Adaptation:
    settings: dict[str, Any] = {
        "benchmarks": {"letters": LetterTask(), "benchmark_domains": {"letters": "letters"}},
        "strategies": {"trained": Trained()},
        "every": 2,
        "limit": 4,
        "shots": 3,
    }
    return Adaptation(**(settings | changes))


def test_a_run_with_it_ends_with_the_same_z(tmp_path: Path, pool: ExpertPool) -> None:
    plain, watched = make_module(), make_module()
    torch.manual_seed(3)
    fit(plain, tmp_path / "plain", steps=3, callbacks=[Checkpoints()])
    strategies = {
        "trained": Trained(),
        "prompt": PromptDispatch(),
        "few_shot": FewShot(shots=3, search=SEARCH, progress=False),
    }
    callback = adaptation(every=1, pool=pool, singles=True, strategies=strategies)
    torch.manual_seed(3)
    fit(watched, tmp_path / "watched", steps=3, callbacks=[callback, Checkpoints()])
    assert len(callback.steps) == 3
    assert torch.equal(flat(plain), flat(watched))
    states = [
        torch.load(tmp_path / name / LAST_CHECKPOINT, weights_only=True)["t2"]["torch_rng"]
        for name in ("plain", "watched")
    ]
    assert torch.equal(*states)


def test_pythons_random_numbers_are_put_back(tmp_path: Path) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    fit(make_module(), tmp_path, steps=1, callbacks=[adaptation(every=1)])
    assert random.random() == expected


def test_the_expert_as_it_is_at_the_step_is_in_the_pool(tmp_path: Path, pool: ExpertPool) -> None:
    strategy, module = Trained(), make_module()
    fit(module, tmp_path, steps=3, callbacks=[adaptation(pool=pool, strategies={"trained": strategy})])
    assert strategy.met == [("math", "code", "letters")] * 2  # after step 2 and at the end
    before, after = (torch.cat([z.flatten() for z in state.values()]) for state in strategy.states)
    last = torch.cat([module.adapter.state()[name].flatten() for name in strategy.states[1]])
    assert torch.allclose(after, last)
    assert not torch.allclose(before, after, atol=1e-6)


def test_without_a_pool_the_expert_is_alone(tmp_path: Path) -> None:
    strategy = Trained()
    fit(make_module(), tmp_path, steps=1, callbacks=[adaptation(strategies={"trained": strategy})])
    assert strategy.met == [("letters",)]


def test_files_have_a_line_per_step_benchmark_and_system(tmp_path: Path, pool: ExpertPool) -> None:
    fit(make_module(), tmp_path, steps=5, callbacks=[adaptation(pool=pool, singles=True)])
    rows = read_steps(tmp_path / ADAPTATION_FILE)
    systems = ["base", "expert:math", "expert:code", "expert:letters", "trained"]
    assert [(int(row["step"]), row["system"]) for row in rows] == [(s, name) for s in (2, 4, 5) for name in systems]
    trained, base = rows[4], rows[0]
    assert (trained["weight:letters"], trained["weight:math"], trained["n"]) == ("1.0", "0.0", "4")
    assert float(trained["pass2"]) > 0
    assert float(trained["difference"]) == pytest.approx(float(trained["score"]) - float(base["score"]))
    assert trained["score"] == rows[3]["score"]  # the same expert by itself
    cells = read_steps(tmp_path / CONFUSION_FILE)
    assert {row["true"] for row in cells} == {"letters"}
    assert [(row["chosen"], row["count"]) for row in cells[:4]] == [
        ("math", "0"), ("code", "0"), ("letters", "4"), ("other", "0"),
    ]  # fmt: skip


def test_metrics_reach_the_csv_logger(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=3, callbacks=[adaptation()])
    row = read_metrics(tmp_path / "metrics.csv")[2]
    for name in ("base/score", "trained/score", "trained/pass1", "trained/weight:letters"):
        assert f"adaptation/letters/{name}" in row
    assert row["adaptation/dispatch_accuracy/trained"] == "1"


def test_the_test_split_is_never_read(tmp_path: Path) -> None:
    Watchful.asked.clear()
    benchmarks = {"letters": Watchful()}
    strategies = {"few_shot": FewShot(shots=3, search=SEARCH, progress=False)}
    fit(make_module(), tmp_path, steps=1, callbacks=[adaptation(benchmarks=benchmarks, strategies=strategies)])
    assert set(Watchful.asked) == {"train", "val"}


def test_the_base_is_scored_once(tmp_path: Path) -> None:
    class Counting(LetterTask):
        scored: list[str] = []  # noqa: RUF012

        def score(self, example: Example, text: str) -> float:
            self.scored.append(text)
            return super().score(example, text)

    Counting.scored.clear()
    callback = adaptation(benchmarks={"letters": Counting()}, every=1)
    fit(make_module(), tmp_path, steps=3, callbacks=[callback])
    assert len(Counting.scored) == 4 * (1 + 3)


def test_a_killed_and_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=3, callbacks=[adaptation(every=1), Checkpoints()])
    checkpoint = tmp_path / LAST_CHECKPOINT
    fit(make_module(), tmp_path, steps=5, ckpt=checkpoint, callbacks=[adaptation(every=1), Checkpoints()])
    steps = [int(row["step"]) for row in read_steps(tmp_path / ADAPTATION_FILE) if row["system"] == "base"]
    assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"limit": 0}, "limit is 0"),
        ({"benchmarks": {}}, "The benchmarks are empty"),
        ({"shots": 41}, "shots=41, and the train split of letters has 40"),
        ({"support_split": "test"}, "nobody's test set"),
        ({"support_split": "val", "limit": 8}, "support examples are among"),
        ({"strategies": {"base": Trained()}}, "No strategy may be called 'base'"),
    ],
)
def test_bad_settings_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adaptation(**changes)


def test_a_pool_of_another_model_is_refused_before_the_first_step(tmp_path: Path, pool: ExpertPool) -> None:
    module = make_module(architecture="mistral")
    with pytest.raises(ValueError, match="different models"):
        fit(module, tmp_path, callbacks=[adaptation(pool=pool)])
    assert module.global_step == 0


@pytest.mark.parametrize(
    ("domains", "file", "message"),
    [
        ({}, "step,task\n1,gcd\n", "'letters' is a benchmark without a domain"),
        ({"letters": None}, "step,task\n1,gcd\nx\n", r"adaptation.csv is damaged: line 3 reads \['x', None\]"),
    ],
)
def test_what_would_stop_an_evaluation_stops_training(domains: Any, file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / ADAPTATION_FILE).write_text(file)
    benchmarks, module = {"letters": LetterTask(), "benchmark_domains": domains}, make_module()
    with pytest.raises(ValueError, match=message):
        fit(module, tmp_path, callbacks=[adaptation(benchmarks=benchmarks)])
    assert module.global_step == 0


@pytest.fixture
def trained(tmp_path: Path, run_script: Callable[..., Any]) -> Path:
    folder = save_pool(tmp_path / "pool")
    run_script(
        "train", "experiment=smoke", "callbacks=adaptation", f"hydra.run.dir={tmp_path / 'run'}", "task=gcd",
        "callbacks.adaptation.every=1", "callbacks.adaptation.limit=2",
        "~callbacks.adaptation.benchmarks.basic_arithmetic", "~callbacks.adaptation.benchmarks.chain_sum",
        "+callbacks.adaptation.benchmarks.benchmark_domains={gcd: gcd, products: math}",
        "+callbacks.adaptation.pool._target_=t2.experts.pool.ExpertPool.load",
        f"+callbacks.adaptation.pool.experts={folder}",
    )  # fmt: skip
    return tmp_path / "run"


def test_the_script_builds_it_and_wandb_has_tables_and_figures(trained: Path) -> None:
    (run,) = read_runs(trained)
    assert run.exit_code == 0
    assert len(run.values("adaptation/gcd/prompt/score")) == 2
    table = run.table("adaptation")
    assert table["columns"][:4] == ["step", "task", "system", "score"]
    assert {(row[1], row[2]) for row in table["data"]} == {
        (task, system) for task in ("gcd", "products") for system in ("base", "prompt")
    }
    assert run.table("confusion")["columns"] == ["step", "system", "true", "chosen", "count"]
    assert list(run.folder.rglob("media/images/confusion/prompt*.png"))
    assert (trained / "confusion_prompt.png").is_file()
    assert {row["task"] for row in read_steps(trained / ADAPTATION_FILE)} == {"gcd", "products"}
    assert json.loads((trained / "results.json").read_text())["seconds"]["adaptation"] > 0
