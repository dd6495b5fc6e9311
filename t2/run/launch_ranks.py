"""What `t2.run.launch` does where several processes train one expert (trainer=ddp): one folder, which the first owns.

Lightning's launcher starts the script again for each further process and tells it the folder. torchrun starts all at
once: the first process names the folder by its clock, and tells the others through torchrun's store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig
from torch.distributed.rendezvous import rendezvous

from t2.run.configuration.trainer import DIVIDED
from t2.run.ranks import rank


def rank_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line of this process: with the run's folder where torchrun started it, and no log file of its own."""
    own = list(arguments)
    if rank() > 0:
        own.append("++hydra.job_logging.handlers.file.delay=true")  # else the file is made, though nothing is written
    if not torch.distributed.is_torchelastic_launched() or any(one.startswith("hydra.run.dir=") for one in own):
        return own
    store, number, _ = next(rendezvous("env://"))
    key = f"t2/folder/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    if number == 0:
        store.set(key, time.strftime("outputs/%Y-%m-%d/%H-%M-%S"))
    return [*own, f"hydra.run.dir={store.get(key).decode()}"]


def is_follower(cfg: DictConfig) -> bool:
    """Whether another process owns the run's folder."""
    return is_divided(cfg) and rank() > 0


def is_divided(cfg: DictConfig) -> bool:
    """Whether the configuration is of a run of several processes."""
    return "trainer" in cfg and cfg.trainer.get("strategy") in DIVIDED


def check_ranks(cfg: DictConfig) -> None:
    """Raise ValueError where the processes cannot divide the run's steps, or were started for a run of one."""
    if not is_divided(cfg):
        started = int(os.environ.get("WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
        if started > 1:
            raise ValueError(
                f"torchrun has started {started} processes, and this is a run of one: add trainer=ddp "
                f"trainer.devices={os.environ['LOCAL_WORLD_SIZE']} to a training run, or start it without torchrun."
            )
        return
    devices, nodes, prompts = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1), cfg.prompts_per_step
    if devices * nodes > prompts:
        raise ValueError(
            f"trainer.devices={devices} on trainer.num_nodes={nodes} are {devices * nodes} processes, and "
            f"prompts_per_step is {prompts}: some would have nothing to do. Lower trainer.devices to {prompts // nodes}"
            f", or raise prompts_per_step to {devices * nodes}."
        )
    if devices * nodes > 1 and HydraConfig.get().mode == RunMode.MULTIRUN and not SLURMEnvironment.detect():
        raise ValueError(
            f"trainer={cfg.trainer.strategy} with -m: each process would start the whole sweep. Start the runs one "
            "after the other without -m, or give each process to Slurm (hydra/launcher=submitit_slurm "
            "hydra.launcher.tasks_per_node=N)."
        )
