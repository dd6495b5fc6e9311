"""W&B's environment variables, which its logger in Lightning passes over: what they say stands in the configuration.

`WANDB_MODE=disabled` and `online`, `WANDB_PROJECT` and `WANDB_ENTITY` hold where the command line does not say the same
key. `offline` is the default of `conf/logger/wandb.yaml`. A run's folder and name are t2's, so that `WANDB_DIR` and
`WANDB_NAME` are not read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from omegaconf import DictConfig, open_dict

from t2.run.messages import check_choice
from t2.run.words import key_of

log = logging.getLogger(__name__)
KEYS = {"WANDB_PROJECT": "project", "WANDB_ENTITY": "entity"}
MODES = ("online", "offline", "disabled", "dryrun", "shared", "run")  # W&B's; Lightning itself sets `dryrun`


def settle_wandb(cfg: DictConfig, words: Sequence[str]) -> None:
    """Have the W&B logger of `cfg`, if there is one, do what the environment says and the `words` typed do not.

    Raises:
        ValueError: WANDB_MODE is none of W&B's modes.
    """
    loggers = cfg.get("logger")
    if not isinstance(loggers, DictConfig) or not isinstance(loggers.get("wandb"), DictConfig):
        return
    given = {key_of(word) for word in words}
    for variable, key in KEYS.items():
        if os.environ.get(variable) and f"logger.wandb.{key}" not in given:
            loggers.wandb[key] = os.environ[variable]
    mode = os.environ.get("WANDB_MODE", "offline")
    check_choice("WANDB_MODE", mode, MODES)
    if "logger.wandb.offline" in given:
        return
    if mode == "disabled":
        with open_dict(loggers):
            del loggers["wandb"]
        log.info("WANDB_MODE is disabled: nothing is logged into W&B.")
    elif mode == "online":
        loggers.wandb.offline = False
