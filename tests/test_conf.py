"""Every YAML under conf/ composes and fits the signature of what it builds; found by glob, so new ones just join."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import hydra.utils
import pytest
from conftest import ROOT
from omegaconf import OmegaConf

CONF = ROOT / "conf"
PRIMARIES = sorted(path.stem for path in CONF.glob("*.yaml"))
CHOICES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/**/*.yaml"))
EVALUATED = ("benchmarks", "experts", "strategy", "held_out")  # groups of evaluate.py
OTHERS = {"backend": "serve"}  # groups of another command than train.py
LATE = {"lm", "adapter", "worn", "logger", "callbacks"}  # what the scripts add to a _partial_


def compose(name: str, *overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides), return_hydra_config=False)


def targets(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}")


def check_signature(where: str, node: dict[str, Any]) -> None:
    signature = inspect.signature(hydra.utils.get_object(node["_target_"]))  # a class, a function or a class's method
    given = {key for key in node if not key.startswith("_")}
    parameters = signature.parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        assert given <= parameters.keys(), (
            f"{where}: {given - parameters.keys()} are no arguments of {node['_target_']}"
        )
    required = {
        key
        for key, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    assert required <= given | (LATE if node.get("_partial_") else set()), f"{where} lacks {required - given}"


def test_the_globs_found_something() -> None:
    assert {"train", "evaluate", "adapt", "export", "serve", "estimate"} == set(PRIMARIES)
    assert len(CHOICES) > 25


@pytest.mark.parametrize("name", PRIMARIES)
def test_primaries_fit_what_they_build(name: str) -> None:
    found = list(targets(OmegaConf.to_container(compose(name), resolve=False)))
    assert found
    for where, node in found:
        check_signature(f"{name}.yaml{where}", node)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_fits_what_it_builds(choice: str) -> None:
    group, _, option = choice.rpartition("/") if choice.startswith("hydra/") else choice.partition("/")
    command = re.search(r"Command:.*?(train|evaluate)\.py", (CONF / f"{choice}.yaml").read_text())
    primary = "evaluate" if group in EVALUATED else command[1] if command else OTHERS.get(group, "train")
    found = list(targets(OmegaConf.to_container(compose(primary, f"{group}={option}"), resolve=False)))
    for where, node in found:
        check_signature(f"conf/{choice}.yaml{where}", node)


def test_only_overlays_are_global() -> None:
    for path in CONF.glob("**/*.yaml"):
        if "@package _global_" in path.read_text():
            assert path.relative_to(CONF).parts[0] in ("experiment", "hparams_search"), path


def test_every_experiment_says_where_it_comes_from() -> None:
    for path in (CONF / "experiment").glob("**/*.yaml"):
        header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        for word in ("Shows", "Command:", "Hardware:", "Time:", "paper"):
            assert word in header, f"{path.name} lacks {word!r}"


def test_the_readme_names_choices_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for group, options in re.findall(r"\b(task|objective|base_model|benchmarks|experiment)=([\w,/]+)", text):
        for option in options.split(","):
            if option in ("parity", "T"):  # the README's own examples
                continue
            assert (CONF / group / f"{option}.yaml").exists(), f"{group}={option}"


def test_no_local_path_is_committed() -> None:
    for path in (*CONF.glob("**/*.yaml"), ROOT / "README.md", *(ROOT / "t2").glob("**/*.py")):
        assert str(Path.home()) not in path.read_text(), path
