"""What a resumed run may change: the number of steps and of processes, its loggers and its paths, and nothing that
decides its result.

A run goes on with the optimizer, the schedule's position and the random state of its checkpoint, so that a changed
learning rate, seed or reward would be ignored or would mix two experiments. Whether RUN can be resumed at all is
`t2.run.launch_resume`'s to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.hints import is_part

log = logging.getLogger(__name__)
FREE = ("resume", "skip_finished", "logger", "paths")  # top-level keys; `steps` may change, too, with a warning
# Which processes compute it; the random numbers are those of the prompt, whoever samples them.
FREE_OF_TRAINER = ("trainer.devices", "trainer.num_nodes", "trainer.strategy")
LENGTH = ("trainer.max_time",)  # when a run stops decides none of its steps
ABSENT = "not set"


def check_unchanged(cfg: DictConfig) -> None:
    """Compare the configuration of a run to be resumed with that it was started with; log a change of `steps`.

    Raises:
        ValueError: another key than those of FREE has another value (all that have are named), or the run has done more
            steps than it would have.
    """
    run = Path(cfg.resume)
    changed = changes(cfg, run)
    refused = [line for key, line in changed.items() if key != "steps"]
    if refused:
        raise ValueError(
            f"resume={run} goes on with a run as it was started, and these differ:\n" + "\n".join(refused) + "\n"
            "Leave them out (only steps, trainer.max_time, logger, paths and the number of processes may change), or "
            "start a new run."
        )
    if "steps" in changed:
        check_steps(cfg.steps, run)
        log.warning(
            "%s: from here on the learning rate follows the schedule of the new number, so the run will not equal one "
            "that was started with it.",
            changed["steps"].strip(),
        )


def check_steps(steps: Any, run: Path) -> None:
    """Raise ValueError where the checkpoint in `run` is of a later step than the run would now end at."""
    if not isinstance(steps, int):
        return  # which is refused with what is allowed
    try:
        done = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, UnpicklingError):
        return  # damaged or gone: whoever goes on reads the one before, or says so
    if isinstance(done, dict) and done.get("global_step", 0) > steps:
        raise ValueError(
            f"resume={run}: the run has done {done['global_step']} steps, and steps={steps} would do none. Give more "
            "steps than it has done, or leave steps out."
        )


def changes(cfg: DictConfig, run: Path) -> dict[str, str]:
    """The keys that differ from the configuration saved in `run`, without those of FREE, each with a line on how.

    Raises:
        FileNotFoundError: none was saved there.
    """
    before = OmegaConf.load(run / ".hydra" / "config.yaml")
    was, now = (OmegaConf.to_container(one, resolve=False) for one in (before, cfg))
    free = (*FREE, *FREE_OF_TRAINER, *LENGTH)
    found = dict(_differences("", was, now))
    return {key: line for key, line in found.items() if key.partition(".")[0] not in free and key not in free}


def _differences(where: str, was: Any, now: Any) -> Iterator[tuple[str, str]]:
    """The keys that differ, each with a line that says how."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*was, *now]):
            yield from _differences(f"{where}.{key}".lstrip("."), was.get(key, ABSENT), now.get(key, ABSENT))
    elif was != now or type(was) is not type(now):
        yield where, f"    {where}: was {_shown(was)}, now {_shown(now)}"


def _shown(value: Any) -> str:
    return str(value["_target_"] if is_part(value) else value)
