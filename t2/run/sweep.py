"""What became of the jobs of a sweep (`-m`): a record of each in `SWEEP/.jobs`, and the list of those that failed.

A job that fails ends alone: the others run, the list at the end has its error and the command that runs it again, and
the exit code is 1. Each job writes its record itself, so that this is the same for every launcher of Hydra; the list is
made where the sweep was started. Whether a job need not run at all (`skip_finished=true`) is for
`t2.run.launch_folder` to say, by the result in its folder. Not here: scores of a sweep (`t2.evaluation.sweeps`).
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from t2.run.files import atomic_path, parse_json
from t2.run.folder_lock import is_in_use
from t2.run.places import typed
from t2.run.words import as_typed, for_shell

JOBS_FOLDER = ".jobs"
# Of the sweep and not of one job; the command that runs a job again alone does without.
OF_THE_SWEEP = ("hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra.mode", "hydra.run", "hydra/sweeper",
                "hydra/launcher")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job of a sweep: `overrides` are its own command line, `headline` its score.

    `state` stays `started` where it was killed. `again` says whether running it again in its folder can help.
    """

    number: int
    folder: str
    overrides: tuple[str, ...]
    state: Literal["started", "finished", "skipped", "failed"] = "started"
    headline: float | None = None
    error: str | None = None
    again: bool = True

    def write(self, sweep: Path) -> None:
        """Write the record."""
        with atomic_path(sweep / JOBS_FOLDER / f"{self.number}.json") as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_jobs(sweep: Path) -> list[Job]:
    """The records of a sweep's jobs by number; empty where the folder has none."""
    found = []
    for path in (sweep / JOBS_FOLDER).glob("*.json"):
        known = parse_json(path.read_bytes(), f"{path} is damaged: it", "Delete it.")
        found.append(Job(**{**known, "overrides": tuple(known["overrides"])}))
    return sorted(found, key=lambda job: job.number)


class JobRecord:
    """Writes the record of the job that runs in this process."""

    def __init__(self) -> None:
        """Say that it has started."""
        hydra = HydraConfig.get()
        overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        self.sweep = Path(hydra.sweep.dir)
        self.job = Job(hydra.job.num, hydra.runtime.output_dir, tuple(map(str, overrides)))
        self.job.write(self.sweep)

    def end(self, headline: float | None, *, skipped: bool) -> None:
        """Say that the job has its result, from an earlier run if `skipped`."""
        replace(self.job, state="skipped" if skipped else "finished", headline=headline).write(self.sweep)

    def fail(self, error: str, *, again: bool = True) -> None:
        """Say why it has none."""
        replace(self.job, state="failed", error=error, again=again).write(self.sweep)


def is_sweep() -> bool:
    """Whether this run is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


class Sweep(Callback):  # type: ignore[misc]
    """Hydra's callback (conf/paths/folders.yaml) that tells `launch` of the sweep that starts in this process."""

    current: Path | None = None
    can_skip = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the records of an earlier start in the same folder; the results in it are not touched.

        Raises:
            SystemExit: a stored study is to start again in the same folder.
        """
        sweep = Path(config.hydra.sweep.dir)
        storage = OmegaConf.select(config, "hydra.sweeper.storage")
        Sweep.can_skip = "skip_finished" in config
        if storage is not None and config.get("skip_finished"):
            raise SystemExit(
                f"error: skip_finished=true with hydra.sweeper.storage={storage}: the study knows the trials that it "
                "has finished, and goes on with others. Leave skip_finished out, and give another hydra.sweep.dir."
            )
        if str(storage).startswith("sqlite:///"):
            Path(str(storage).removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # Optuna 2.10 is for versions before 2
        logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's; it names its own parts
        for pattern in ("*.json", ".*.part"):
            for old in (sweep / JOBS_FOLDER).glob(pattern):
                old.unlink()
        Sweep.current = sweep


def report_sweep(script: str, arguments: Sequence[str], *, complete: bool) -> bool:
    """Print how the sweep of this process ended, if there was one; whether every job has its result.

    `arguments` are the command line that started it, and `complete` says whether it came to its end.
    """
    sweep, Sweep.current = Sweep.current, None
    jobs = read_jobs(sweep) if sweep is not None else []
    if sweep is None or not jobs:
        return True
    failed = [job for job in jobs if job.state not in ("finished", "skipped")]
    counts = {state: sum(job.state == state for job in jobs) for state in ("finished", "skipped")}
    print(f"\nSweep {sweep}: {counts['finished']} finished, {counts['skipped']} skipped, {len(failed)} failed.")
    for job in failed:
        runs = is_in_use(Path(job.folder))
        ended = "It still runs." if runs else "It ended without a result or an error: killed, or lost."
        print(f"\n#{job.number} {' '.join(job.overrides)}\n{job.error or ended}")
        if job.again and not runs:
            print(f"Again: {again(script, job, arguments)}")
    if not complete and Sweep.can_skip:
        word = for_shell("hydra.sweep.dir", sweep)
        print(f"\nIt did not end. Go on with: the same command line, {word} skip_finished=true")
    elif len(jobs) > len(failed):
        print(f"Table and figure: python -m t2.evaluation.tables {shlex.quote(str(sweep))}")
    sys.stdout.flush()
    return not failed


def again(script: str, job: Job, arguments: Sequence[str]) -> str:
    """The command line that runs a job of a sweep by itself, in the folder that it has there."""
    words = [*_flags(arguments), *job.overrides]
    words += [one for one in arguments if one.startswith("hydra") and not one.startswith(OF_THE_SWEEP)]
    words += [f"hydra.run.dir={as_typed(_relative(Path(job.folder)))}"]
    if not {"-m", "--multirun"} & set(arguments):
        words.append("hydra.mode=RUN")  # the configuration says that it is a sweep
    if Sweep.can_skip and "skip_finished=true" not in words:
        words.append("skip_finished=true")
    return f"{typed(script)} {shlex.join(words)}"


def _flags(arguments: Sequence[str]) -> list[str]:
    """Hydra's flags that say where the configuration lies."""
    names = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
    found: list[str] = []
    for index, one in enumerate(arguments):
        if one in names:
            found += arguments[index : index + 2]
        elif one.startswith(tuple(f"{name}=" for name in names)):
            found.append(one)
    return found


def _relative(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
