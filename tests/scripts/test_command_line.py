"""Overrides that are sweeps or free text reach Hydra as they were meant."""

from __future__ import annotations

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from t2.run.launch_overrides import check_overrides, quote_text


@pytest.mark.parametrize(
    "override",
    ["task=gcd,products", "seed=range(0,3)", "task=glob(*)", "seed=interval(0,1)", "+new=choice(1,2)", "~logger"],
)
def test_sweeps_pass_the_check(override: str) -> None:
    check_overrides(ROOT / "conf", "train", ["-m", override, "hydra.sweep.dir=x"])


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
