"""Words of a command line: what is quoted is read back as it was, by Hydra and by t2."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from t2.run.words import as_typed, key_of, unquoted, value_text


def read(word: str) -> Any:
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("outputs/train/2026-01-01/00-00-00", True),
        ("a b", True),
        ("lr=0.1,task=gcd", False),
        ('it\'s a "b"', False),
        ("back\\", True),
        ('back\\"=', False),
        ("123", False),
        ("null", False),
        (" a", False),
    ],
)
def test_a_folder_is_read_back_as_it_was(text: str, is_plain: bool) -> None:
    typed = as_typed(text)
    assert (typed == text) == is_plain
    assert read(f"expert={typed}") == unquoted(typed) == text


def test_values_of_a_configuration_are_read_back() -> None:
    value = {"_target_": "a.B", "n": None, "yes": True, "x": 1e-5, "l": ["\n", 1, {"a": "x: y", "e": ""}], "empty": {}}
    assert read(f"key={value_text(value)}") == value
    assert value_text("${paths.run}") == '"${paths.run}"'


def test_signs_are_no_part_of_a_key() -> None:
    assert [key_of(word) for word in ("++a.b=c=d", "~a", "a=")] == ["a.b", "a", "a"]
