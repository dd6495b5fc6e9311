"""Where conf/ and the experts that ship lie: beside the package in a checkout, inside it once it is installed."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"  # what the wheel has of the checkout's folders
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
CONF = ROOT / "conf"


def is_checkout() -> bool:
    """Whether the package runs out of its own repository."""
    return ROOT != INSTALLED and (ROOT / "pyproject.toml").is_file()


def typed(command: str) -> str:
    """How a command is typed: `python train.py` in a checkout, `t2 train` where the package is installed."""
    return f"python {command}.py" if is_checkout() else f"t2 {command}"


def shipped(path: str) -> str:
    """Where a file that ships with t2 lies; in the configuration `${shipped:experts/...}`."""
    return str(ROOT / path)


OmegaConf.register_new_resolver("shipped", shipped, replace=True)
