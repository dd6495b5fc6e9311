"""Hydra's own flags on a command line (`-m`, `--config-dir FOLDER`), as apart from overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser


def flags_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, `overrides`, and flags that are `unknown` to it, of a command line."""
    flags, others = get_args_parser().parse_known_args(list(arguments))
    flags.overrides = [*flags.overrides, *(one for one in others if not one.startswith("-"))]
    flags.unknown = [one for one in others if one.startswith("-")]
    assert isinstance(flags, argparse.Namespace)
    return flags


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with Hydra's flags (`-m`, `--config-dir FOLDER`) before the overrides, the only place it reads them
    in where overrides stand on both sides.
    """
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        action = _flag(word)
        if action is not None and action.nargs is None and rest:
            flags += [word, rest.pop(0)]
        elif action is not None and action.nargs == "?":  # `--info`, whose value may be missing
            given = rest.pop(0) if rest and rest[0] in (action.choices or ()) else action.const
            flags.append(f"{action.option_strings[0]}={given}")
        else:
            (flags if word.startswith("-") else overrides).append(word)
    return [*flags, *overrides]


def _flag(word: str) -> argparse.Action | None:
    """Hydra's flag of this name, which may be shortened; None where there is none, or several."""
    actions = get_args_parser()._option_string_actions
    alike = {id(one): one for name, one in actions.items() if word.startswith("--") and name.startswith(word)}
    return actions.get(word) or (next(iter(alike.values())) if len(alike) == 1 else None)
