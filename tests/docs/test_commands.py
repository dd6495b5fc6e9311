"""The commands of README, CONTRIBUTING and docs/: run with a tiny model, or checked where they need more."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from markdown_blocks import Command, blocks, commands
from tiny_pool import pooled, save_pool
from wandb.cli.cli import cli as wandb_cli

from t2.adaptation.centroid_fit import fingerprint
from t2.experts.centroids import Centroids, Prototype, Source
from t2.experts.expert import EXPERT_FILE, Expert
from t2.run.launch_overrides import check_overrides, quote_text
from t2.run.results import CENTROIDS_FILE

pytestmark = pytest.mark.commands
SCRIPTS = ("train.py", "evaluate.py", "adapt.py", "export.py", "serve.py", "estimate.py")
DOMAINS = ("sums", "reading")
DISPATCH = "names"  # the file of the dispatch expert
ALL = commands(blocks("bash"))
# A command of two pages runs once.
DISTINCT = list({(one.words, bool(one.block.needs)): one for one in reversed(ALL)}.values())[::-1]
# Choices that docs/extending.md adds: see tests/docs/test_extending.py.
NEW_CHOICES = ("task=parity", "strategy=keywords", "objective=imitate", "adapter=top_svf")
SMALL = {
    "train.py": (
        *("base_model=tiny", "steps=1", "prompts_per_step=2", "sampling.samples=2", "sampling.max_new_tokens=2"),
        *("callbacks.validation.limit=1", "callbacks.samples.rows=1", "logger=csv"),
    ),
    "evaluate.py": (
        "base_model=tiny",
        "logger=none",
        "limit=1",
        "sampling.max_new_tokens=2",
        "singles=false",
        "uniform=false",
    ),
    "adapt.py": ("base_model=tiny", "sampling.max_new_tokens=2"),
    "export.py": ("base_model=tiny",),
    "estimate.py": (),  # nothing is loaded
}
SMALL_CALLBACK = ("callbacks.adaptation.limit=1", "callbacks.adaptation.shots=0")
SMALL_SEARCH = (
    *("strategy.search.population=6", "strategy.search.iterations=1", "strategy.search.elite_share=0.5"),
    *("shots=2", "base_model.context_length=4096"),
)

each_runnable = pytest.mark.parametrize(
    "command",
    [one for one in DISTINCT if not one.block.needs and not any(choice in one.words for choice in NEW_CHOICES)],
    ids=lambda one: one.name,
)
each_marked = pytest.mark.parametrize("command", [one for one in DISTINCT if one.block.needs], ids=lambda one: one.name)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of the shipped pool's domains, for the tiny model."""
    folder = save_pool(tmp_path_factory.mktemp("experts") / "pool", (*DOMAINS, DISPATCH))
    model = pooled(*DOMAINS, layers=2)
    labels = {domain: Prototype(torch.eye(32)[at], torch.ones(1)) for at, domain in enumerate(DOMAINS)}
    sources = dict.fromkeys(DOMAINS, Source(1, "", 1, ""))
    about = {"layer": 1, "base_model": model.lm.source, "fingerprint": fingerprint(model), "task": "", "accuracy": {}}
    tasks = {domain: {domain: one} for domain, one in labels.items()}
    Centroids(labels, tasks, sources, **about).save(folder / CENTROIDS_FILE)
    return folder


@pytest.fixture
def finished(command: Command, folder: Path, trained_once: Path, run_script: Callable[..., Any]) -> Path:
    """A copy of the folder of a finished training run on the tiny model, with the adapter that the command names."""
    evaluates = command.words[1] in ("evaluate.py", "adapt.py")
    adapter = next((word for word in command.words if evaluates and word.startswith("adapter=")), "adapter=svf")
    run = trained_once / adapter.partition("=")[2]
    if not run.exists():
        run_script("train", "experiment=smoke", "logger=csv", adapter, f"hydra.run.dir={run}")
    return Path(shutil.copytree(run, folder / "run"))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a run puts it, by adapter."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that nothing is left in, with the files that commands name."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "prompts.txt", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overrides_of(command: Command, run: Path, pool: Path) -> list[str]:
    """The command's own overrides with RUN and the pool filled in, made small; of two for one key the later stands."""
    script, own = command.words[1], [word.replace("RUN", str(run)) for word in command.words[2:]]
    small = list(SMALL[script])
    if "experts=smollm2_135m" in own:
        files = [f"{domain}: {pool}/{domain}.safetensors" for domain in DOMAINS]
        small += [f"experts.experts={{{', '.join(files)}}}", f"experts.dispatch={pool}/{DISPATCH}.safetensors"]
        small += ["base_model.context_length=4096", f"experts.centroids={pool}"]
    if "strategy=few_shot" in own:
        small += SMALL_SEARCH
    if "callbacks=adaptation" in own:
        small += [*SMALL_CALLBACK, "base_model.context_length=4096"]
    if any(word.startswith("resume=") for word in own):
        small = []
    if "sampling.samples=1" in own:
        small.remove("sampling.samples=2")
    keys = {word.partition("=")[0]: word for word in (*own, *small)}
    return list(keys.values())


def swept(overrides: Sequence[str], folder: Path) -> list[str]:
    """The overrides, with where the runs are written."""
    where = f"hydra.sweep.dir={folder}/sweep" if "-m" in overrides else f"hydra.run.dir={folder}/out"
    return [*overrides] if any(word.startswith("resume=") for word in overrides) else [*overrides, where]


def test_there_are_commands_of_every_script() -> None:
    run = {one.words[1] for one in ALL if one.words[0] == "python" and not one.block.needs}
    assert run >= {*SCRIPTS, "-m"} - {"serve.py"}  # which does not end; tests/serving/test_serve_process.py starts it
    assert "serve.py" in {one.words[1] for one in ALL if one.words[0] == "python"}
    assert len(ALL) > 40


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # python -m in a process that has imported it
@each_runnable
def test_it_runs(
    command: Command, folder: Path, finished: Path, pool: Path, run_script: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = command.words
    assert words[0] == "python", f"{command.name}: say what it needs in a comment above the block"
    if words[1] in SCRIPTS:
        overrides = overrides_of(command, finished, pool)
        overrides = overrides if words[1] == "estimate.py" else swept(overrides, folder)
        if words[1] == "export.py":
            move(finished / EXPERT_FILE)
        run_script(words[1].removesuffix(".py"), *overrides)
        if words[1] == "export.py":
            assert (folder / "FOLDER" / "export.json").is_file()
        elif words[1] not in ("adapt.py", "estimate.py") and "-m" not in words:
            assert ((folder / "out" if f"resume={finished}" not in overrides else finished) / "results.json").is_file()
        return
    assert words[1] == "-m", f"{command.name}: a script of t2, or python -m"
    arguments = [word.replace("RUN", str(finished)) for word in words[3:]]
    monkeypatch.setattr(sys, "argv", [words[2], *arguments])
    assert exit_code(words[2]) in (0, None)


def move(path: Path) -> None:
    """Change the multipliers of an expert: a step on a random model may have learned nothing."""
    expert = Expert.load(path)
    Expert({module: z + 0.1 for module, z in expert.scales.items()}, expert.metadata).save(path)


def exit_code(module: str) -> Any:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        return ended.code
    return 0


@each_marked
def test_what_it_names_exists(command: Command) -> None:
    words = command.words
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"no such target: {words[1]}"
    elif words[0] == "python" and words[1] in SCRIPTS:
        check_overrides(ROOT / "conf", words[1].removesuffix(".py"), quote_text(words[2:]))
    elif words[0] == "sbatch":
        (at,) = (number for number, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[at]).is_file(), words[at]
        check_overrides(ROOT / "conf", "train", quote_text(words[at + 1 :]))
    elif words[:2] == ("python", "-m"):
        assert importlib.util.find_spec(words[2]), words[2]
        check_flags(Path(str(importlib.util.find_spec(words[2]).origin)).read_text(), words[3:])
    elif words[0] == "python":
        script = ROOT / words[1]
        assert script.is_file(), script
        check_flags("".join(path.read_text() for path in script.parent.glob("**/*.py")), words[2:])
    elif words[:2] == ("t2", "lm_eval"):
        check_overrides(ROOT / "conf", "adapt", words[words.index("--model_args") + 1].split(","))
    elif words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK), words[0]
    elif words[0] == "wandb":
        assert words[1] in wandb_cli.commands, words[1]
        assert all((ROOT / word).is_file() for word in words[2:] if word.endswith(".yaml")), words
    else:
        assert words[0] in ("pip", "vf-eval", ".venv/bin/pre-commit"), f"{command.name}: nothing here can check it"


def check_flags(source: str, words: Sequence[str]) -> None:
    for flag in (word for word in words if word.startswith("--")):
        positive = flag.replace("--no-", "--")
        assert f'"{flag}"' in source or f'"{positive}"' in source, flag
