"""Overrides that are sweeps or free text reach Hydra as they were meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from t2.run.launch_flags import flags_first
from t2.run.launch_overrides import PLUGINS, check_overrides, quote_text


@pytest.mark.parametrize(
    "override",
    ["task=gcd,products", "seed=range(0,3)", "task=glob(*)", "seed=interval(0,1)", "+new=choice(1,2)", "~logger"],
)
def test_sweeps_pass_the_check(override: str) -> None:
    check_overrides(ROOT / "conf", "train", ["-m", override, "hydra.sweep.dir=x"])


@pytest.mark.parametrize("override", ["task=gcd,products,gdc", "base_model=tiny,tiyn", "optimizer.lr=1,2 task=gcd,gdc"])
def test_every_choice_of_a_sweep_is_looked_for_before_the_first_job(override: str) -> None:
    with pytest.raises(
        ValueError, match=r"Could not find '(task/gdc|base_model/tiyn)'(.|\n)*Did you mean '(gcd|tiny)'"
    ):
        check_overrides(ROOT / "conf", "train", ["-m", *override.split()])


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("objective=grpo", "objective.epsilon_hi=3"), "objective.epsilon_high"),
        (("task=mbpp", "task.tset=x"), "task.test"),
    ],
)
def test_a_near_miss_is_looked_for_among_the_keys_of_the_choices(words: tuple[str, ...], near: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{near}"):
        check_overrides(ROOT / "conf", "train", list(words))


def test_flags_may_stand_anywhere() -> None:
    words = ["task=gcd", "-m", "seed=0,1", "--config-d", "mine", "x=-1", "-cn", "train", "-cd=other", "--info", "y=2"]
    flags = ["-m", "--config-d", "mine", "-cn", "train", "-cd=other", "--info=all"]
    assert flags_first(words) == [*flags, "task=gcd", "seed=0,1", "x=-1", "y=2"]
    assert flags_first(["a=1", "--info", "plugins", "--cfg", "job"]) == ["--info=plugins", "--cfg", "job", "a=1"]


@pytest.mark.parametrize("override", ["=3", "+=3", "~="])
def test_a_value_without_a_key_is_named(override: str) -> None:
    with pytest.raises(ValueError, match=r"has no key\. Write KEY=VALUE"):
        check_overrides(ROOT / "conf", "train", [override])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "7 + 8 =",
            "a: b, [c] {d}",
            'say "hi"',
            "back\\slash",
            "C:\\",
            "100 % | 'x'",
            '"one" and "two"',
            "é ${ü",
            "a\nb",
        ),
        *("${oc.env:HOME}", "${not.resolved}x", "\\${x}", "\\\\${x} \\", 'say "${x}"', "${", "'${x}'s"),
    ],
)
def test_a_prompt_may_hold_any_sign(text: str) -> None:
    (argument,) = quote_text([f"prompt={text}"])
    parsed = OverridesParser.create().parse_override(argument)
    assert OmegaConf.create({"prompt": parsed.value()}).prompt == text


def test_quoted_text_and_other_keys_are_left_alone() -> None:
    arguments = ["prompt='a b'", "system=null", "task=gcd", "-m", "sampling.stop=[a,b]"]
    assert quote_text(arguments) == arguments


def test_folders_of_ones_own_are_searched(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("defaults: [gcd]\n")
    conf, searched = ROOT / "conf", f"hydra.searchpath=[file://{tmp_path}]"
    for flags in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)], [searched]):
        check_overrides(conf, "train", [*flags, "task=mine"])
    other = f"hydra.searchpath=[file://{tmp_path / 'other'}]"
    check_overrides(conf, "train", ["--config-dir", str(tmp_path), other, "task=mine"])
    with pytest.raises(ValueError, match=r"Did you mean .* `python train\.py --help`"):
        check_overrides(conf, "train", [searched, "task=mine", "task.nam=3"])
    with pytest.raises(ValueError, match="there is no such folder"):
        check_overrides(conf, "train", ["--config-dir", str(tmp_path / "no")])


def test_a_plugin_that_is_not_installed_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = ROOT / "conf"
    monkeypatch.setitem(PLUGINS, "hydra/sweeper/mine", "a-plugin")
    (tmp_path / "hparams_search").mkdir()
    search = "# @package _global_\ndefaults: [{override /hydra/sweeper: mine}]\n"
    (tmp_path / "hparams_search" / "mine.yaml").write_text(search)
    for override in ("hydra/sweeper=mine", "hparams_search=mine"):
        with pytest.raises(ValueError, match="hydra/sweeper=mine needs a plugin of Hydra: pip install a-plugin"):
            check_overrides(conf, "train", ["--config-dir", str(tmp_path), "-m", override, "seed=0,1"])
    with pytest.raises(ValueError, match="Did you mean 'basic'"):
        check_overrides(conf, "train", ["-m", "hydra/launcher=basi", "seed=0,1"])
    assert PLUGINS["hydra/sweeper/optuna"] == '"transformer2[optuna]"'
