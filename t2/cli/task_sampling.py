"""How a task's questions are answered: what a configuration says, and the task's own where it says null.

Not done here: samplings of no task, such as those of adapt.py's prompts.
"""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.tasks.base import Task, check_task
from t2.types import Sampling


def task_sampling(sampling: DictConfig, task: Task, **others: Any) -> Sampling:
    """Build the sampling of a configuration with the task's length and stop strings where those are null.

    Raises:
        ValueError: the task lacks a part, such as the form that its stop strings are of.
    """
    check_task(task)
    own = {"max_new_tokens": task.max_new_tokens, "stop": task.form.stop}
    made: Sampling = instantiate(sampling, **{key: of for key, of in own.items() if sampling[key] is None}, **others)
    return made
