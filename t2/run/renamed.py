"""Names that changed: what the overrides and `_target_`s of an older t2 are called now.

Old names are not accepted, since one thing has one name; whoever uses one is told the new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# Old override key -> what to write now.
RENAMED_KEYS = {
    "by": "pass2 (rows is now per_example, groups is merged)",
    "callbacks.adaptation.by": "callbacks.adaptation.pass2 (rows is now per_example, groups is merged)",
    "strategy.end_of_turn": "strategy.fitness=likelihood alone, whose completions end as the experts end them",
    "strategy.alphas": "strategy.weights",
    "task.protocol": "task.splits=paper (official) or task.splits=t2 (fixed); grading is that of fixed for both, and "
    "tasks whose splits are the same (math, humaneval) have no such key",
    "task.task.protocol": "task.task.splits=paper or task.task.splits=t2, where the wrapped task has the key",
    "warmup": "python examples/tiny_llava.py instead (its --help lists the options)",
}
# Old choice of a group -> what to write now.
RENAMED_CHOICES = {
    "experiment=vision/warmup": "python examples/tiny_llava.py instead, which aligns the small LLaVA",
    "generation=auto": "generation=hf or generation=vllm",
    "trainer=cpu": "base_model.device=cpu, which the trainer follows",
    "trainer=gpu": "base_model.device=cuda, which the trainer follows",
}
# Old module -> its module or package now, of everything that a configuration names.
MOVED_MODULES = {
    "t2.adaptation.Adaptation": "t2.training.adaptation_callback.Adaptation",
    "t2.callbacks": "t2.training.callbacks",
    "t2.callbacks.SampleTable": "t2.training.sample_table.SampleTable",
    "t2.generation.hf": "t2.policy.hf",
    "t2.generation.vllm": "t2.policy.vllm",
    "t2.generation.vllm.EngineSettings": "t2.policy.vllm_engine.EngineSettings",
    "t2.grading.code": "t2.grading.sandbox.executor",
    "t2.loggers": "t2.run.metrics_csv",
    "t2.models.load_model": "t2.models.loading.load_model",
    "t2.objectives": "t2.training.objectives",
    "t2.optimizer": "t2.training.optimizer",
    "t2.pool": "t2.experts.pool",
    "t2.strategies": "t2.adaptation",
    "t2.strategies.search.AlphaSpace": "t2.adaptation.mixture_space.MixtureSpace",
    "t2.training.callbacks.SampleTable": "t2.training.sample_table.SampleTable",
    "t2.tasks.fewshot.FewShot": "t2.tasks.few_shot_split.FewShotSplit",
    "t2.tasks.mixed.Mixed": "t2.tasks.union.TaskUnion",
    "t2.tiny": "t2.models.tiny",
}


def renamed_target(target: str) -> str | None:
    """What the `_target_` of an older t2 is called now; None where it was not renamed."""
    for old in sorted(MOVED_MODULES, key=len, reverse=True):
        if target == old or target.startswith(f"{old}."):
            return MOVED_MODULES[old] + target.removeprefix(old)
    return None


def renamed_override(argument: str) -> str | None:
    """What the override of an older t2 is written as now; None where it was not renamed."""
    key = argument.lstrip("+~").partition("=")[0]
    return RENAMED_CHOICES.get(argument.lstrip("+~")) or RENAMED_KEYS.get(key)


def old_targets(config: Any) -> Iterator[str]:
    """Every `_target_` of a configuration (plain dicts and lists) that was renamed."""
    if isinstance(config, Mapping):
        target = config.get("_target_")
        if isinstance(target, str) and renamed_target(target) is not None:
            yield target
        for value in config.values():
            yield from old_targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from old_targets(value)


def target_in(message: str) -> str | None:
    """The `_target_` that Hydra's message says it could not find; None for another message."""
    found = re.search(r"Error locating target '([\w.]+)'", message)
    return found[1] if found else None
