"""The task, strategy, objective and adapter of docs/extending.md, put where the page says and run by its commands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from markdown_blocks import Command, blocks, commands
from tiny_pool import save_pool, tiny_generator, tiny_pool

from t2.adaptation.strategy import PooledModel
from t2.cli.main import BODIES
from t2.experts.expert import Expert
from t2.run.launch import launch
from t2.types import OTHER, Example

pytestmark = pytest.mark.commands
PAGE = "docs/extending.md"
SMALL = {
    "train": (
        *("base_model=tiny", "steps=2", "prompts_per_step=2", "sampling.samples=2", "sampling.max_new_tokens=4"),
        *("callbacks.validation.limit=2", "logger=csv", "optimizer.lr=0.1", "optimizer.warmup_steps=0"),
    ),
    "evaluate": (
        "base_model=tiny",
        "logger=none",
        "limit=2",
        "sampling.max_new_tokens=3",
        "singles=false",
        "uniform=false",
    ),
}
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of conf/ with the page's YAML files, and its modules under their names in t2."""
    conf = tmp_path_factory.mktemp("extended") / "conf"
    shutil.copytree(ROOT / "conf", conf)
    names = []
    for block in blocks("yaml") + blocks("python"):
        path = block.text.partition("\n")[0].removeprefix("# ")
        if block.page != PAGE:
            continue
        assert not (ROOT / path).exists(), f"{path} exists, so the page would edit it"
        target = conf.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text)
        if block.language == "python":
            names.append(install(path.removesuffix(".py").replace("/", "."), target))
    yield conf
    for name in names:
        package, _, child = name.rpartition(".")
        delattr(importlib.import_module(package), child)
        del sys.modules[name]


def install(name: str, file: Path) -> str:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package, _, child = name.rpartition(".")
    setattr(importlib.import_module(package), child, module)
    return name


@pytest.fixture
def run(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the page's command that has this choice, small; returns the run folder."""

    def run_command(choice: str, *more: str) -> Path:
        found = [one for one in commands(blocks("bash")) if one.block.page == PAGE and choice in one.words]
        (command,) = found
        name = command.words[1].removesuffix(".py")
        own = [word for word in command.words[2:] if not word.startswith("experts=")]
        arguments = [*own, *SMALL[name], *more, f"hydra.run.dir={tmp_path / 'run'}"]
        monkeypatch.setattr(sys, "argv", [command.words[1], *arguments])
        try:
            launch(getattr(importlib.import_module(f"t2.cli.{name}"), BODIES[name]), conf=installed, name=name)
        finally:
            GlobalHydra.instance().clear()
        return tmp_path / "run"

    return run_command


def test_every_command_of_the_page_is_tried() -> None:
    choices = {"task=parity", "strategy=keywords", "objective=imitate", "adapter=top_svf"}
    of_the_page = [one for one in commands(blocks("bash")) if one.block.page == PAGE]
    assert all(any(choice in one.words for choice in choices) for one in of_the_page)
    assert len(of_the_page) == len(choices)
    assert isinstance(of_the_page[0], Command)


def test_the_task(run: Run) -> None:
    results = json.loads((run("task=parity") / "results.json").read_text())
    assert results["scores"].keys() == {"parity"}


def test_the_strategy(run: Run, tmp_path: Path) -> None:
    domains = ("sums", "reading")
    pool = save_pool(tmp_path / "pool", domains)
    files = ", ".join(f"{domain}: {pool}/{domain}.safetensors" for domain in domains)
    alone = ("experts.dispatch=null", "experts.centroids=null")
    folder = run("strategy=keywords", "experts=smollm2_135m", f"experts.experts={{{files}}}", *alone)
    results = json.loads((folder / "results.json").read_text())
    assert all({"base", "keywords"} <= systems.keys() for systems in results["scores"].values())


@pytest.mark.usefixtures("installed")
def test_the_strategy_chooses_by_word() -> None:
    from t2.adaptation.keywords import Keywords

    strategy = Keywords({"calculate": "math", "who": "letters"})
    generator = tiny_generator()
    model = PooledModel(generator, tiny_pool(generator))
    prompts = ("Calculate 3 * 4.", "Who sings?", "Hello.")
    choices = strategy.choose(model, [Example(prompt) for prompt in prompts])
    assert [choice.label for choice in choices] == ["math", "letters", OTHER]
    assert [choice.mixture.means for choice in choices] == [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    with pytest.raises(ValueError, match="allowed: letters, math"):
        Keywords({"pick": "compare"}).choose(model, [])


def test_the_objective(run: Run) -> None:
    from t2.training.imitate import Imitate

    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    cut = torch.zeros(2, 2, dtype=torch.bool)
    assert torch.equal(Imitate(reward_wrong=-1.0).advantages(rewards * 2 - 1, cut), rewards)
    assert (run("objective=imitate") / "expert.safetensors").is_file()


def test_the_adapter(run: Run) -> None:
    folder = run(
        "adapter=top_svf", "objective=sft", "sampling.samples=1", "adapter.top=3", "callbacks.validation.every=1"
    )
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(not delta[3:].any() for delta in saved.values())  # z = 1 + delta
    assert any(delta[:3].any() for delta in saved.values())
    assert Expert.load(folder / "expert.safetensors").parameter_count == sum(len(z) for z in saved.values())
