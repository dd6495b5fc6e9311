"""Where conf/ and the experts that ship lie: beside the package in a checkout, inside it once it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"  # what the wheel has of the checkout's folders
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
CONF = ROOT / "conf"
SHIPPED = "shipped"  # the prefix of paths in ROOT


def is_checkout() -> bool:
    """Whether the package runs out of its own repository."""
    return ROOT != INSTALLED and (ROOT / "pyproject.toml").is_file()


def typed(command: str) -> str:
    """How a command is typed: `python train.py` in a checkout, `t2 train` where the package is installed."""
    return f"python {command}.py" if is_checkout() else f"t2 {command}"


def located(path: Path | str) -> Path:
    """The path itself; `shipped:FOLDER/FILE` is one of the files that ship with t2, wherever it is run."""
    kind, colon, rest = str(path).partition(":")
    return ROOT / rest if colon and kind == SHIPPED else Path(path)
