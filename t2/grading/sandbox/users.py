"""A user of its own for every sandbox that root starts, so that none finds what another's user left behind.

The numbers are nobody's: above those that systemd's documents assign to anything (1879048192 on), or, where a container
lacks them, those that systemd keeps for services that bring no user of their own. What it does not do: give the users a
name.
"""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path

_CHOICES = ((1_900_000_000, 100_000_000), (61_184, 4_336))  # first, how many
_FOR_JUDGES = 16  # parts of the numbers, of which one is theirs
_turn = itertools.count(int.from_bytes(os.urandom(4), "big"))


@functools.cache
def users_for(judges: bool, uid_map: Path = Path("/proc/self/uid_map")) -> range:
    """The numbers that candidates, or the servers of judges, take their users from; never the same ones.

    Raises:
        LookupError: this is a user namespace in which none of them exists.
    """
    maps = [tuple(map(int, line.split())) for line in uid_map.read_text().splitlines()]
    for first, count in _CHOICES:
        if any(inside <= first and first + count <= inside + size for inside, _, size in maps):
            border = first + count // _FOR_JUDGES
            return range(first, border) if judges else range(border, first + count)
    ranges = " or ".join(f"{first} to {first + count - 1}" for first, count in _CHOICES)
    raise LookupError(f"no user to run programs as: /proc/self/uid_map has none of {ranges}")


def next_user(users: range) -> int:
    """A number that was not given out lately."""
    return users[next(_turn) % len(users)]
