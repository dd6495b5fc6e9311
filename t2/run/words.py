"""A word of a command line, KEY=VALUE in Hydra's grammar: what its key is, and how a value is written and read back.

Not done here: what a script accepts (`t2.run.launch_overrides`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'", re.DOTALL)
KEYWORDS = ("null", "true", "false", "nan", "inf")  # texts that Hydra would read as something else


def key_of(word: str) -> str:
    """The key of an override, without the signs before it."""
    return word.lstrip("+~").partition("=")[0]


def quoted(text: str) -> str:
    """A text in quotes. Hydra reads backslashes literally, except before a quote."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" + found[2]) * bool(found[2]), text) + '"'


def unquoted(text: str) -> str:
    """A text without the quotes around it, if there are any."""
    if not QUOTED.fullmatch(text):
        return text
    return re.sub(rf"(\\+)({text[0]}|$)", lambda found: found[1][: len(found[1]) // 2] + found[2], text[1:-1])


def as_typed(text: object) -> str:
    """A text, such as a folder's name, as the value of an override: in quotes where Hydra would read something else."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        is_same = not parsed.is_sweep_override() and parsed.value() == str(text)
    except HydraException:
        is_same = False
    return str(text) if is_same else quoted(str(text))


def for_shell(key: str, folder: object) -> str:
    """The word that gives a folder to a key, as it is typed into a shell."""
    return shlex.quote(f"{key}={as_typed(folder)}")


def value_text(value: Any) -> str:
    """A value of a configuration as Hydra reads it, interpolations unresolved; words stay without quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    return value if re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in KEYWORDS else quoted(value)
