"""The loggers of a run, from the resolved configuration at its start to the end of its W&B run.

What is logged, and when, is said by those who measure it. W&B is offline unless `logger.wandb.offline=false`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from t2.run.slurm import WANDB_FLUSH_S


@contextmanager
def tracked(loggers: Sequence[Logger], about: Mapping[str, Any]) -> Iterator[None]:
    """Log `about` (the configuration, commit, data) as the run's hyperparameters, and end its W&B run with the block.

    Raises:
        ValueError: W&B refuses to start the run.
    """
    # W&B keeps the last 15 seconds of an offline run in memory, which a job that is killed loses.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", str(WANDB_FLUSH_S))
    failed = True
    try:
        try:
            for logger in loggers:
                logger.log_hyperparams(dict(about))
        except wandb.errors.Error as error:
            raise ValueError(
                f"W&B does not start the run: {error} Give it what it asks for, keep the run on this machine "
                "(logger.wandb.offline=true), or leave W&B out (logger=csv)."
            ) from error
        yield
        failed = False
    finally:
        wandb.finish(exit_code=int(failed))  # else the next job of a sweep would write into this one's W&B run


def wandb_runs(loggers: Sequence[Logger]) -> list[Any]:
    """The W&B runs among the loggers; of several processes the first alone has one."""
    found = [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]
    return [run for run in found if isinstance(run, wandb.Run)]


def artifact(path: Path, domain: str, *, about: Mapping[str, Any]) -> wandb.Artifact:
    """The file of an expert as a W&B artifact `expert-DOMAIN`; `about` its metadata, of which scalars are kept."""
    unread = ("fingerprint", "adapter")  # JSON, for programs
    scalars = {key: value for key, value in about.items() if isinstance(value, str | int | float) and key not in unread}
    one = wandb.Artifact(f"expert-{domain}", type="expert", metadata=scalars)
    one.add_file(str(path))
    return one


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    """A W&B table of rows that are mappings; what a row lacks is empty."""
    return wandb.Table(columns=list(columns), data=[[row.get(column) for column in columns] for row in rows])
