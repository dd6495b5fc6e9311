"""A word of a command line, KEY=VALUE in Hydra's grammar: what its key is.

Not done here: what a script accepts (`t2.run.launch_overrides`).
"""

from __future__ import annotations


def key_of(word: str) -> str:
    """The key of an override, without the signs before it."""
    return word.lstrip("+~").partition("=")[0]
