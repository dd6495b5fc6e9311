"""Checks of a user's choices, and the sentence that names a near miss."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def check_choice(what: str, got: str, allowed: Iterable[str]) -> None:
    """Raise ValueError, with a near miss named, unless `got` is one of `allowed`."""
    names = sorted(allowed)
    if got not in names:
        raise ValueError(f"{what} is {got!r}; allowed: {', '.join(names)}.{did_you_mean(got, names)}")


def did_you_mean(got: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest of `names`, to end a message with; empty if none is near."""
    near = get_close_matches(str(got), list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
