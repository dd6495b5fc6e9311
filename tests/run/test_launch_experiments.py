"""An experiment is given to the script that its header names, and no message suggests the word that was typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from t2.run.launch_experiments import script_of
from t2.run.launch_overrides import check_overrides

CONF = ROOT / "conf"
EXPERIMENTS = sorted((CONF / "experiment").rglob("*.yaml"))


def test_every_header_with_a_command_of_its_own_names_the_script() -> None:
    found = {}
    for path in EXPERIMENTS:
        name = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        found[name] = script_of(path.read_text(), name)
    nobody = {"growth/expert", "growth/joint", "paper/training"}
    assert {name for name, script in found.items() if script is None} == nobody
    assert {name for name, script in found.items() if script == "evaluate"} == {
        *(name for name in found if name.startswith("study/")),
        "frontier/beside",
        "larger/unseen",
        *(f"paper/table{number}" for number in (2, 3, 5, 8)),
    }


@pytest.mark.parametrize(
    ("script", "word", "said"),
    [
        ("train", "experiment=study/two_pass", "is one of evaluate.py, and this is train.py. Type python evaluate.py "),
        ("train", "experiment=smoke,study/shots", "experiment=study/shots is one of evaluate.py"),
        ("evaluate", "+experiment=demo", "experiment=demo is one of train.py"),
        ("adapt", "experiment=demo", "Type python train.py experiment=demo; the file's header"),
        ("estimate", "experiment=paper/table2", "is one of evaluate.py, and this is estimate.py"),
        ("serve", "strategy=classifier", "strategy=classifier: serve.py takes strategies=[classifier]"),
        ("serve", "+strategy=classifier", "serve.py takes strategies=[classifier]"),
        ("serve", "+strategy@strategies.a=prompt", "serve.py takes strategies=[NAME]"),
    ],
)
def test_a_word_of_another_script_is_named(script: str, word: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check_overrides(CONF, script, [word])


def test_experiments_of_the_script_and_of_ones_own_pass(tmp_path: Path) -> None:
    for script, word in (("train", "smoke"), ("evaluate", "study/shots"), ("train", "growth/joint")):
        check_overrides(CONF, script, [f"experiment={word}"])
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# Command: python train.py experiment=mine\nseed: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    check_overrides(CONF, "train", ["--config-dir", str(tmp_path), "experiment=mine"])
    for words in (["--config-dir", str(tmp_path)], [f"hydra.searchpath=[file://{tmp_path}]"]):
        with pytest.raises(ValueError, match=r"experiment=mine is one of train\.py"):
            check_overrides(CONF, "evaluate", [*words, "experiment=mine"])


@pytest.mark.parametrize(("script", "word"), [("adapt", "experiment=x"), ("serve", "task=gcd")])
def test_the_word_that_was_typed_is_not_suggested(script: str, word: str) -> None:
    with pytest.raises(ValueError, match="lists every key") as refused:
        check_overrides(CONF, script, [word])
    assert f"Did you mean '{word.partition('=')[0]}'" not in str(refused.value)
