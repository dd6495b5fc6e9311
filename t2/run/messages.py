"""Checks of a user's choices, and the sentence that names a near miss."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from operator import ge, gt, le, lt


def check_choice(what: str, got: str, allowed: Iterable[str]) -> None:
    """Raise ValueError, with a near miss named, unless `got` is one of `allowed`."""
    names = sorted(allowed)
    if got not in names:
        raise ValueError(f"{what} is {got!r}; allowed: {', '.join(names)}.{did_you_mean(got, names)}")


def did_you_mean(got: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest of `names`, to end a message with; empty if none is near."""
    near = get_close_matches(str(got), list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def nearest(got: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of `names` most similar to `got`, None where no similarity (difflib's ratio, 0 to 1) reaches `cutoff`."""
    return next(iter(get_close_matches(got, list(names), n=1, cutoff=cutoff)), None)


def check_range(
    what: str,
    got: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ValueError unless a number lies within all the bounds given; NaN lies within none."""
    bounds = {"at least": (ge, at_least), "above": (gt, above), "at most": (le, at_most), "below": (lt, below)}
    given = {name: (within, bound) for name, (within, bound) in bounds.items() if bound is not None}
    if not all(within(got, bound) for within, bound in given.values()):
        allowed = " and ".join(f"{name} {bound}" for name, (_, bound) in given.items())
        raise ValueError(f"{what} is {got}; allowed: {allowed}.")
