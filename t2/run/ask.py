"""Runs a script that answers from its configuration alone: nothing is written, and no run has a folder.

The words are those of a run: Hydra's own keys, and what says how a sweep is made, are read and left out. Not done here:
what needs a folder (`t2.run.launch`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from t2.run.configuration.check import check_configuration
from t2.run.launch import user_message
from t2.run.launch_experiments import check_experiments
from t2.run.launch_flags import flags_of
from t2.run.launch_overrides import composed, quote_text


def ask(body: Callable[[DictConfig], Any], *, conf: Path, name: str) -> None:
    """Run `body` with the configuration `conf/name.yaml` and the overrides of the command line; of a sweep, the first.

    Raises:
        SystemExit: with 1, or a message, where an override or the configuration is wrong, or `body` says so.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.WARNING)
    flags = flags_of(quote_text(sys.argv[1:]))
    try:
        for one in flags.unknown:
            raise ValueError(f"{one} is no flag; write {one.lstrip('-')}")
        words = [word for word in flags.overrides if not word.startswith("hydra/")]  # launchers and sweepers
        check_experiments(conf, name, words, folder=flags.config_dir)
        cfg = composed(conf, name, [*words, "paths.run=."], folder=flags.config_dir)
        check_configuration(cfg, name)
        body(cfg)
    except Exception as error:
        message = user_message(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        raise SystemExit(f"error: {message}") from None
