"""What `t2.run.launch` does where several processes train one expert (trainer=ddp): one folder, which the first owns.

Lightning's launcher starts the script again for each further process and tells it the folder. torchrun starts all at
once: the first process names the folder by its clock, and tells the others through torchrun's store. So does srun, and
there the folder has the job's number, which all know, and which a job that Slurm starts again has still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch.distributed.rendezvous import rendezvous

from t2.run.configuration.trainer import DDP
from t2.run.folder_lock import unused_folder
from t2.run.ranks import rank
from t2.run.slurm import in_step, slurm_job


def rank_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line of this process: with the run's folder where torchrun started it, and no log file of its own."""
    own = list(arguments)
    if rank() > 0:
        own.append("++hydra.job_logging.handlers.file.delay=true")  # else the file is made, though nothing is written
    if any(one.startswith("hydra.run.dir=") for one in own):
        return own
    if not torch.distributed.is_torchelastic_launched():
        return [*own, f"hydra.run.dir=outputs/train/slurm/{slurm_job()}"] if in_step() else own
    store, number, _ = next(rendezvous("env://"))
    key = f"t2/folder/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    if number == 0:
        store.set(key, unused_folder(time.strftime("outputs/train/%Y-%m-%d/%H-%M-%S")))
    return [*own, f"hydra.run.dir={store.get(key).decode()}"]


def is_follower(cfg: DictConfig) -> bool:
    """Whether another process owns the run's folder."""
    return is_divided(cfg) and rank() > 0


def is_divided(cfg: DictConfig) -> bool:
    """Whether the configuration is of a run of several processes."""
    return "trainer" in cfg and cfg.trainer.get("strategy") == DDP


def check_ranks(cfg: DictConfig) -> None:
    """Raise ValueError where the processes cannot divide the run's steps, or were started for another number."""
    check_tasks(cfg)
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
    if devices * nodes > 1 and HydraConfig.get().mode == RunMode.MULTIRUN and "SUBMITIT_EXECUTOR" not in os.environ:
        raise ValueError(
            "trainer=ddp with -m: each process would start the whole sweep. Start the runs one after the other without "
            "-m, or give each process to Slurm (hydra/launcher=slurm hydra.launcher.tasks_per_node=N)."
        )


def check_tasks(cfg: DictConfig) -> None:
    """Raise ValueError where Slurm has started another number of processes (tasks) than the run divides itself among.

    A run of one process may also be a line of an sbatch file; several have to be started by srun, one for each task.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if slurm_job() is None or (tasks == 1 and not is_divided(cfg)):
        return
    devices, nodes = (cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)) if is_divided(cfg) else (1, 1)
    started = f"Slurm job {slurm_job()} has {tasks} tasks on {os.environ.get('SLURM_NNODES', '1')} nodes"
    if not in_step():
        if not is_divided(cfg) or "SLURM_NTASKS" not in os.environ:
            return  # one process, or Lightning's own launcher
        raise ValueError(f"{started}, and this process is none of them: write `srun python` in the sbatch file.")
    if not is_divided(cfg):
        if HydraConfig.get().mode == RunMode.RUN:
            return  # several runs side by side; two in one folder are refused
        raise ValueError(
            f"{started}, and this is a run of one process. Train with trainer=ddp trainer.devices={tasks}, or ask for "
            "one task (hydra.launcher.tasks_per_node=1 hydra.launcher.nodes=1)."
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ and tasks > 1:
        raise ValueError(f"{started}: ask for them by --ntasks-per-node={devices} --nodes={nodes} instead of --ntasks.")
    per_node, on = os.environ.get("SLURM_NTASKS_PER_NODE", "1"), os.environ.get("SLURM_NNODES", "1")
    if (int(per_node), int(on)) != (devices, nodes):
        raise ValueError(
            f"{started}, {per_node} on each, and the run has trainer.devices={devices} trainer.num_nodes={nodes}. Ask "
            f"for hydra.launcher.tasks_per_node={devices} hydra.launcher.nodes={nodes} (sbatch: --ntasks-per-node="
            f"{devices} --nodes={nodes}), or set trainer.devices={per_node} trainer.num_nodes={on}."
        )
