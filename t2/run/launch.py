"""Launches the scripts with Hydra: validates overrides, resumes runs, and prints user errors without a traceback.

A script is `launch(body, conf, name)`: Hydra composes the configuration, the body runs, and an error of the user's is
one message (HYDRA_FULL_ERROR=1 shows the traceback too). Hydra gets the run's headline score, which a search maximises.
In a sweep, a job that fails ends alone (`t2.run.sweep`). Not done here: reading values of the configuration.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import hydra
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from t2.run.allocator import keep_freed_memory
from t2.run.base_model import settle_base_model, tell_source
from t2.run.configuration.check import check_configuration
from t2.run.configuration.resume import check_unchanged
from t2.run.grouped_attention import group_attention
from t2.run.launch_flags import flags_first
from t2.run.launch_folder import Finished, FolderTaken, in_own_folder
from t2.run.launch_overrides import check_overrides, given_overrides, quote_text
from t2.run.launch_ranks import is_follower, rank_arguments
from t2.run.launch_resume import resume_arguments
from t2.run.launch_slurm import check_launcher
from t2.run.ranks import SIGTERM_STATUS, AnotherRankFailed, follow_quietly
from t2.run.renamed import renamed_target, target_in
from t2.run.sweep import JobRecord, is_sweep, report_sweep
from t2.run.wandb_environment import settle_wandb

log = logging.getLogger(__name__)
USER_ERRORS = (
    *(ValueError, OSError, ImportError, MisconfigurationException, OmegaConfBaseException),
    FloatingPointError,  # NaN and infinity in training
    AnotherRankFailed,
)


@runtime_checkable
class Scored(Protocol):
    """What a body may return: a result with one score, higher being better."""

    @property
    def headline(self) -> float | None:
        """The score; None where there is none."""
        ...


def launch(body: Callable[[DictConfig], Any], *, conf: Path, name: str) -> None:
    """Run `body` with the configuration `conf/name.yaml` and the overrides of the command line.

    Raises:
        SystemExit: with 1 where the run, or a job of the sweep, has failed.
    """
    arguments = sys.argv[1:] = flags_first(quote_text(sys.argv[1:]))
    sys.argv[1:] = checked_arguments(conf, name, arguments)
    complete = False
    try:
        hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(_guarded(body, name))()
        complete = True
    finally:
        complete &= report_sweep(name, arguments, complete=complete)
    if not complete:
        raise SystemExit(1)


def checked_arguments(conf: Path, name: str, arguments: list[str]) -> list[str]:
    """The command line for Hydra; SystemExit, with what is wrong, where it is."""
    resumed = resume_arguments(arguments, conf) if name == "train" else None
    given = arguments if resumed is None else resumed
    try:
        check_launcher(given)
        check_overrides(conf, name, given)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return rank_arguments(given) if name == "train" else given


def _guarded(body: Callable[[DictConfig], Any], name: str) -> Callable[[DictConfig], float | None]:
    """Wrap `body` so that the configuration is checked and the folder is its own, and a user error is one message.

    It returns the headline score; None where there is none, and of a job of a sweep that failed.
    """

    @functools.wraps(body)
    def guarded(cfg: DictConfig) -> float | None:
        record = JobRecord() if is_sweep() and not is_follower(cfg) else None
        try:
            result = _run(body, name, cfg)
        except SIGTERMException:  # a SystemExit without a status, so 0: Lightning's, which waits for the step's end
            raise SystemExit(SIGTERM_STATUS) from None
        except FolderTaken as error:
            if record is None:
                raise SystemExit(f"error: {error}") from None
            record.fail(str(error), again=False)
            return None
        except Exception as error:
            message = user_message(error)
            if record is None and (message is None or os.environ.get("HYDRA_FULL_ERROR")):
                raise
            if message is None:
                traceback.print_exc()
            log.error("%s", message or f"{type(error).__name__}: {error}")
            if record is None:
                raise SystemExit(1) from None
            record.fail(message or f"{type(error).__name__}: {error}")
            return None
        headline = result.headline if isinstance(result, (Scored, Finished)) else None
        if record is not None:
            record.end(headline, skipped=isinstance(result, Finished))
        return headline

    return guarded


def _run(body: Callable[[DictConfig], Any], name: str, cfg: DictConfig) -> Any:
    if is_follower(cfg):
        follow_quietly()
    words = given_overrides()
    settle_base_model(cfg, words)
    settle_wandb(cfg, words)
    if cfg.get("resume"):
        check_unchanged(cfg)
    check_configuration(cfg, name)
    tell_source(cfg, words)
    keep_freed_memory()
    group_attention()
    result = in_own_folder(body, cfg)
    if isinstance(result, Finished):
        log.info("This run has its result already.")
    return result


def user_message(error: Exception) -> str | None:
    """What to tell the user instead of a traceback; None for an error that is not the user's."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    if not isinstance(error, (*USER_ERRORS, InstantiationException)):
        return None
    target = target_in(str(error))
    if target is not None and renamed_target(target) is not None:
        return f"The configuration names {target}, which is now {renamed_target(target)}. Correct it."
    return str(cause) if isinstance(cause, USER_ERRORS) else None


def quiet_libraries() -> None:
    """Silence messages that Lightning and torch print at every start, and httpx's of every request."""
    names = ["lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators", "lightning.fabric"]
    for name in [*names, "httpx", "httpx2"]:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are lists of text
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # Lightning 2.6 on torch 2.13
