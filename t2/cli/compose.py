"""A command's configuration without its command line: for other programs' command lines, which start t2 themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from t2.run import launch_overrides
from t2.run.places import CONF


def composed(command: str, overrides: Mapping[str, Any]) -> DictConfig:
    """The configuration of `command` with keys and groups overridden, values as Python has them.

    Raises:
        ValueError: an unknown key or choice.
    """
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]
    return launch_overrides.composed(CONF, command, texts)
