"""Whether an experiment is one of the script that it is given to: its file names the script in the line `Command:`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from t2.run.places import typed
from t2.run.words import key_of

SAME = {"estimate": "train"}  # a script that takes another one's command lines


def check_experiments(conf: Path, script: str, texts: Sequence[str], *, folder: str | None = None) -> None:
    """Raise ValueError for `experiment=NAME` of another script.

    `conf`, `folder` (of --config-dir) and those of hydra.searchpath are looked in; a file that is not found there, or
    that names no script, is left to Hydra.
    """
    searched = [Path(one) for text in texts if key_of(text) == "hydra.searchpath" for one in _folders(text)]
    folders = [conf, *([] if folder is None else [Path(folder)]), *searched]
    for text in texts:
        if key_of(text) != "experiment":
            continue
        for name in text.partition("=")[2].split(","):
            paths = [path for one in folders if (path := one / "experiment" / f"{name}.yaml").is_file()]
            owner = script_of(paths[0].read_text(), name) if paths else None
            if owner is not None and owner != SAME.get(script, script):
                raise ValueError(
                    f"experiment={name} is one of {owner}.py, and this is {script}.py. Type {typed(owner)} "
                    f"experiment={name}; the file's header says what follows it."
                )


def script_of(text: str, name: str) -> str | None:
    """The script that the header of an experiment's file gives `experiment=NAME` to; None where it names none."""
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    command = re.search(r"Command:(.*?)(Hardware:|$)", header)
    found = re.search(rf"(\w+)\.py\b[^;]*?experiment={re.escape(name)}(?![\w/])", command[1]) if command else None
    return found[1] if found else None


def _folders(text: str) -> list[str]:
    """Those of hydra.searchpath=[file://A,file://B]."""
    return [one.strip(" '\"").removeprefix("file://") for one in text.partition("=")[2].strip("[]").split(",")]
