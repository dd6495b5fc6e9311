"""The table of command lines: how it is read, and those of its lines that the configuration alone decides.

The whole table is run by bench/command_lines.py. Here the refusals of single keys are checked without Hydra's command
line: each override is applied to a configuration that was composed once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import pytest
from command_lines import Line, expand, fault_of, read_table, run
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from t2.run.configuration.check import check_configuration
from t2.run.launch_overrides import quote_text

pytestmark = pytest.mark.commands
GROUPS = (
    "benchmarks",
    "experts",
    "strategy",
    "task",
    "objective",
    "adapter",
    "base_model",
    "generation",
    "trainer",
    "callbacks",
    "logger",
    "experiment",
)
# What the constructors refuse, and more that is not of one key alone.
BASE = {
    "train": ("experiment=smoke",),
    "evaluate": ("base_model=tiny",),
    "adapt": ("base_model=tiny",),
    "export": ("base_model=tiny",),
}


# Refused by the constructors or the scripts, which see more than one value and its type.
LATER = (
    *("objective.reward", "objective.kl_coefficient", "objective.advantage_clip", "objective.importance_cap"),
    *("adapter.", "generation.", "base_model.", "+base_model.", "task.", "trainer.accelerator", "resume=", "expert="),
    *(
        "sampling.temperature=0",
        "sampling.samples=1",
        "sampling.samples=2",
        "prompts_per_step=5000",
        "domain=other",
        "support_split=test",
    ),
    *("prompt", "to=gguf", "out=", "rank=", "mixture=", "max_shard_size="),
)


@cache
def composed(script: str) -> DictConfig:
    common = {"train": ("experiment=smoke", "logger=csv")}.get(script, ("base_model=tiny",))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(script, overrides=["paths.run=/run", *common])


def single_values(kind: str) -> Iterator[Line]:
    """Lines of one override, of a value."""
    for line in read_table():
        if line.kind == kind and not line.bare and len(line.own) == 1 and "=" in line.own[0]:
            key = line.own[0].partition("=")[0]
            if key not in GROUPS:
                yield line


def refusal(line: Line) -> str | None:
    """The message that Hydra or the check of the configuration refuses a line with; None if both take it."""
    cfg = copy.deepcopy(composed(line.script))
    try:
        overrides = OverridesParser.create().parse_overrides(quote_text(line.own))
        ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)
        check_configuration(cfg, line.script)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return str(error)
    return None


def test_values_that_work_pass_the_check_of_the_configuration() -> None:
    lines = list(single_values("ok"))
    assert len(lines) > 80
    assert {line.text(): refusal(line) for line in lines} == {line.text(): None for line in lines}


def test_values_of_a_wrong_type_or_range_are_refused_before_anything_is_built() -> None:
    """What is accepted here is refused by a constructor: a key in LATER. Any other was accepted in silence."""
    lines = list(single_values("refused"))
    assert len(lines) > 400
    accepted = [line.own[0] for line in lines if refusal(line) is None]
    assert [one for one in accepted if not one.startswith(LATER)] == []


def test_alternatives_are_written_out() -> None:
    assert list(expand("a=<1|2> b.<x=1|y>")) == ["a=1 b.x=1", "a=1 b.y", "a=2 b.x=1", "a=2 b.y"]
    assert list(expand("")) == [""]


@pytest.mark.parametrize(
    ("kind", "text", "code", "fault"),
    [
        ("ok", "", 0, None),
        ("ok", "steps is wrong", 1, "refused"),
        ("refused", "steps is 0; allowed: 1", 1, None),
        ("refused", "steps is 0; allowed: 1", 0, "accepted"),
        ("refused", "an error", 1, "vague"),
        ("refused", "Traceback (most recent call last):\n steps", 1, "traceback"),
        ("ok", "Traceback (most recent call last):\n", 0, "traceback"),
    ],
)
def test_an_end_is_judged_by_the_table(kind: str, text: str, code: int, fault: str | None) -> None:
    line = Line(kind, "train", ("steps=0",), False)
    assert fault_of(line, text, code=code, hangs=False) == fault
    assert fault_of(line, text, code=code, hangs=True) == "hang"


def test_a_line_is_run_as_it_would_be_typed() -> None:
    assert run(Line("ok", "train", ("--version",), True), {}, timeout_s=60).fault is None
    assert run(Line("refused", "train", ("steps=0",), False), {}, timeout_s=60).fault is None
