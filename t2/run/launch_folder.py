"""The folder of a run that `t2.run.launch` starts: locked, looked at, and only then written to.

Hydra would write the configuration there before a script begins, over that of a job that is running in the same folder.
`hydra.output_subdir` therefore is null in `conf/`, and what Hydra would write is written here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf, open_dict

from t2.run.configuration.resume import changes, check_unchanged
from t2.run.files import atomic_path
from t2.run.folder_lock import KEPT_FILES, check_new, folder_lock, unused_folder
from t2.run.launch_ranks import check_ranks, is_follower
from t2.run.launch_slurm import check_mode
from t2.run.ranks import AnotherRankFailed
from t2.run.results import RESULTS_FILE, read_headline
from t2.run.run_identity import name_run
from t2.run.slurm import Record, has_checkpoint, requeued_on_signal, restarts

log = logging.getLogger(__name__)
# Hydra keeps what it gives in the configuration, as it does the time; the jobs of a sweep get it from the launcher.
OmegaConf.register_new_resolver("unused_folder", unused_folder, use_cache=True, replace=True)


class FolderTaken(Exception):
    """A folder that a run may not write to; the message is the user's. Not to be logged: the log is in that folder."""


@dataclass(frozen=True)
class Finished:
    """What an earlier run of the same configuration left in the folder; `headline` is None where it had no score."""

    headline: float | None


def in_own_folder(body: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run `body` with the run's folder locked, and its configuration written there unless the run is resumed.

    With `skip_finished=true`, a folder that holds the result of this configuration gives `Finished`, and one with a
    checkpoint is gone on with. So does a job that Slurm has requeued, in its own folder. The first of several processes
    does the writing; the others write nothing, and end quietly where another one failed.

    Raises:
        FolderTaken: another job runs in the folder, or an earlier run left there what this one would write over.
        ValueError: the processes cannot divide the run's steps, a launcher of sweeps is chosen for a single run, or a
            requeued job has another configuration than it had.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_mode()
    check_ranks(cfg)
    requeued = Record.of_requeued(folder)
    if requeued is not None and (finished := _requeued(requeued, cfg, folder)) is not None:
        return finished
    limit = HydraConfig.get().launcher.get("max_num_timeout")
    if is_follower(cfg):
        try:
            with requeued_on_signal(folder, first=False, limit=limit):
                return _earlier(cfg, folder) or body(cfg)
        except (AnotherRankFailed, SIGTERMException, FolderTaken):
            # The first process exits with a status; were there one here, Lightning's launcher would kill it before.
            raise SystemExit(0) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
            if (finished := _earlier(cfg, folder)) is not None:
                return finished
            if not cfg.get("resume") and not cfg.get("skip_finished") and requeued is None:
                check_new(folder)
        except (BlockingIOError, FileExistsError) as error:
            raise FolderTaken(str(error)) from None
        name_run(cfg)
        if not cfg.get("resume"):
            save_config(cfg, folder / ".hydra")
        else:
            save_steps(cfg, folder / ".hydra" / "config.yaml")
        stack.enter_context(requeued_on_signal(folder, first=True, limit=limit))
        return body(cfg)


def _requeued(record: Record, cfg: DictConfig, folder: Path) -> Finished | None:
    """What a job finds in its folder that Slurm has started again: a result, or a checkpoint, which is gone on with."""
    if record.is_finished(folder):
        log.info("%s holds this job's results: Slurm has started it again, and there is nothing left to do.", folder)
        return Finished(read_headline(folder))
    if "resume" in cfg and has_checkpoint(folder):
        cfg.resume = str(folder)
        check_unchanged(cfg)
        log.info("Slurm has started this job for the %d. time; it goes on from its last step.", restarts() + 1)
    return None


def _earlier(cfg: DictConfig, folder: Path) -> Finished | None:
    """What `skip_finished=true` finds in the folder: a result, or a checkpoint, which `cfg.resume` is set to.

    Raises:
        FolderTaken: it is of another configuration.
    """
    if not cfg.get("skip_finished") or cfg.get("resume"):
        return None
    found = [name for name in KEPT_FILES if (folder / name).is_file()]
    if not found:
        return None
    try:
        changed = changes(cfg, folder)
    except FileNotFoundError:
        changed = {"": "    no configuration is saved there"}
    if changed:
        raise FolderTaken(
            f"{folder} holds {', '.join(found)} of another configuration:\n" + "\n".join(changed.values()) + "\n"
            "skip_finished=true goes on with the same runs. Give the same command line as before, or another folder "
            "(hydra.run.dir=FOLDER, of a sweep hydra.sweep.dir=FOLDER)."
        )
    if RESULTS_FILE in found:
        return Finished(read_headline(folder))
    if any(name.endswith(".ckpt") for name in found):
        with open_dict(cfg):
            cfg.resume = str(folder)
    return None


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write the files that Hydra calls its output: the configuration, Hydra's own, and the overrides."""
    hydra_cfg = OmegaConf.masked_copy(OmegaConf.create({"hydra": HydraConfig.get()}), "hydra")
    # Unresolved: a prompt among them may hold what looks like an interpolation.
    overrides = OmegaConf.create(OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    for name, node in (("config", cfg), ("hydra", hydra_cfg), ("overrides", overrides)):
        with atomic_path(folder / f"{name}.yaml") as partial:
            partial.write_text(OmegaConf.to_yaml(node))


def save_steps(cfg: DictConfig, path: Path) -> None:
    """Write a changed number of steps into the configuration of a resumed run, which may have to be resumed again."""
    before = OmegaConf.load(path)
    assert isinstance(before, DictConfig), f"{path} was checked"
    if before.get("steps") != cfg.get("steps"):
        before.steps = cfg.steps
        with atomic_path(path) as partial:
            partial.write_text(OmegaConf.to_yaml(before))
