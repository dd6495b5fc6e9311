"""The launcher of `hydra/launcher=slurm`: submitit's, which in addition loses no job and says plainly what failed.

Hydra takes launchers from modules of this package's name alone. Checks and messages are `t2.run.launch_slurm`'s, and
what a job does when Slurm stops it is `t2.run.slurm`'s. Hydra imports this file whatever is launched, `--help`
included, so that what is large is imported by what needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)
OWN = ("_target_", "submitit_folder", "max_num_timeout")  # keys that are none of sbatch's
COMMON = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")


class SlurmLauncher(Launcher):  # type: ignore[misc]  # Hydra has no types
    """Gives the jobs of a sweep to Slurm as one array, and waits for all of them."""

    def __init__(self, **params: Any) -> None:
        """`params` are the keys of hydra/launcher=submitit_slurm."""
        self.params: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in params.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a job needs."""
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit  # an extra

        self.config, self.loader = config, hydra_context.config_loader
        self.inner = Submitit(**self.params)
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; SystemExit with a message where Slurm refuses them."""
        import submitit

        from t2.run.launch_slurm import (
            SlurmTask,
            Submitted,
            check_times,
            no_slurm,
            record_failure,
            refused,
            wait_for,
        )

        if reason := no_slurm():
            raise SystemExit(f"error: {reason}")
        try:
            check_times(self.params["timeout_min"], self.params["signal_delay_s"])
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        for number, overrides in zip(numbers, job_overrides, strict=True):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        try:
            submitted = self._executor().map_array(SlurmTask(self.inner), *zip(*arguments, strict=True))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise SystemExit(f"error: {refused(error, self.params)}") from None
        jobs = [
            Submitted(number, tuple(filter_overrides(overrides)), self._folder(overrides, number), job)
            for number, overrides, job in zip(numbers, job_overrides, submitted, strict=True)
        ]
        log.info("Slurm job %s. Its files: %s", jobs[0].job.job_id.partition("_")[0], jobs[0].job.paths.folder.parent)
        results, failures = wait_for(jobs)
        for one in jobs:
            if one.number in failures:
                record_failure(one, failures[one.number], Path(str(self.config.hydra.sweep.dir)))
        # As of a job that fails by itself (`t2.run.launch`): without a score, for a search; listed at the sweep's end.
        return [results.get(number) or JobReturn(status=JobStatus.COMPLETED) for number in numbers]

    def _executor(self) -> Any:
        import submitit

        executor = submitit.AutoExecutor(
            cluster="slurm",
            folder=self.params["submitit_folder"],
            slurm_max_num_timeout=self.params["max_num_timeout"],
        )
        asked = {key: value for key, value in self.params.items() if key not in OWN}
        executor.update_parameters(**{key if key in COMMON else f"slurm_{key}": one for key, one in asked.items()})
        return executor

    def _folder(self, overrides: Sequence[str], number: int) -> Path:
        """Where a job writes."""
        config = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        return Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
