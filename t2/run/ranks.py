"""Which of several processes of one training run this is: what can be known before torch.distributed is set up.

The processes have a number from 0 on, their rank. Lightning reads it from the environment, whether its own launcher,
torchrun or Slurm started the process. The first one alone writes files, logs and shows progress.
Not here: what the processes tell each other (`t2.training.ranks`).
"""

from __future__ import annotations

import logging
import os
import warnings

from lightning.pytorch.utilities import rank_zero_only

SIGTERM_STATUS = 143  # 128 + 15, what shells say of a process that SIGTERM ended


class AnotherRankFailed(Exception):
    """Another process of this run has failed or is gone, so that this one cannot go on."""


def rank() -> int:
    """The number of this process among those of its run; 0 where there is one."""
    return int(getattr(rank_zero_only, "rank", 0))


def local_rank() -> int:
    """The number of this process among those of its run on this machine."""
    return int(next((os.environ[key] for key in ("LOCAL_RANK", "SLURM_LOCALID") if key in os.environ), 0))


def no_bar(wanted: bool = True) -> bool | None:
    """tqdm's `disable` of a bar that is `wanted`: the first process shows one where there is a terminal (None)."""
    return None if wanted and rank() == 0 else True


def follow_quietly() -> None:
    """Leave files, messages and warnings to the first process; errors of this one are still shown."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
        else:
            handler.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
