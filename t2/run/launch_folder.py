"""The folder of a run that `t2.run.launch` starts: locked, looked at, and only then written to.

Hydra would write the configuration there before a script begins, over that of a job that is running in the same folder.
`hydra.output_subdir` therefore is null in `conf/`, and what Hydra would write is written here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.resume import check_unchanged
from t2.run.files import atomic_path
from t2.run.folder_lock import check_new, folder_lock
from t2.run.launch_ranks import check_ranks, is_follower
from t2.run.launch_slurm import check_mode
from t2.run.ranks import AnotherRankFailed
from t2.run.slurm import Record, has_checkpoint, requeued_on_signal, restarts

log = logging.getLogger(__name__)


def in_own_folder(body: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run `body` with the run's folder locked, and its configuration written there unless the run is resumed.

    The first of several processes does that; the others write nothing, and end quietly where another one failed.
    A job that Slurm has requeued goes on in its folder; None where it had finished there.

    Raises:
        ValueError: the processes cannot divide the run's steps, a launcher of sweeps is chosen for a single run, or a
            requeued job has another configuration than it had.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_mode()
    check_ranks(cfg)
    requeued = Record.of_requeued(folder)
    if requeued is not None and requeued.is_finished(folder):
        log.info("%s holds this job's results: Slurm has started it again, and there is nothing left to do.", folder)
        return None
    if requeued is not None and "resume" in cfg and has_checkpoint(folder):
        cfg.resume = str(folder)
        check_unchanged(cfg)
        log.info("Slurm has started this job for the %d. time; it goes on from its last step.", restarts() + 1)
    limit = HydraConfig.get().launcher.get("max_num_timeout")
    if is_follower(cfg):
        try:
            with requeued_on_signal(folder, first=False, limit=limit):
                return body(cfg)
        except (AnotherRankFailed, SIGTERMException):
            # The first process exits with a status; were there one here, Lightning's launcher would kill it before.
            raise SystemExit(0) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
            if not cfg.get("resume") and requeued is None:
                check_new(folder)
        except (BlockingIOError, FileExistsError) as error:
            # Not logged: the log's file is in that folder, too.
            raise SystemExit(f"error: {error}") from None
        if not cfg.get("resume"):
            save_config(cfg, folder / ".hydra")
        stack.enter_context(requeued_on_signal(folder, first=True, limit=limit))
        return body(cfg)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write the files that Hydra calls its output: the configuration, Hydra's own, and the overrides."""
    hydra_cfg = OmegaConf.masked_copy(OmegaConf.create({"hydra": HydraConfig.get()}), "hydra")
    # Unresolved: a prompt among them may hold what looks like an interpolation.
    overrides = OmegaConf.create(OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    for name, node in (("config", cfg), ("hydra", hydra_cfg), ("overrides", overrides)):
        with atomic_path(folder / f"{name}.yaml") as partial:
            partial.write_text(OmegaConf.to_yaml(node))


def overrides_of(folder: Path, group: str) -> list[str]:
    """The words of a command line that choose `group`, and keys in it, as the run in `folder` did; for messages.

    None where no command line started it.
    """
    if not (folder / ".hydra" / "hydra.yaml").is_file():
        return []
    saved = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
    words: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"), resolve=False)
    keys = [str(word) for word in words if str(word).lstrip("+~").startswith(f"{group}.")]
    return [f"{group}={OmegaConf.select(saved, f'hydra.runtime.choices.{group}')}", *keys]
