"""Names a run for dashboards: its id, command, name and group, which conf/logger reads from `paths`.

They are drawn or composed once, when a run starts, and stand in its `.hydra/config.yaml`, so that a run that is
resumed, or given back by Slurm, goes on as the same W&B run with the same name.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

ID_BYTES = 5  # 2^40 ids
MAX_NAME, MAX_VALUE = 128, 24  # characters; W&B takes no longer names
# Groups whose choices tell runs apart, in the order in which a name has them; defaults that go without saying.
NAMED_GROUPS = ("task", "benchmarks", "objective", "adapter", "strategy")
UNSAID = {"adapter": "svf"}


def name_run(cfg: DictConfig) -> None:
    """Set `paths.run_id`, `run_command`, `run_name` and `run_group`, unless they are given or the run has them.

    A configuration without these keys is not on a dashboard.
    """
    if "run_name" not in cfg.get("paths", {}):
        return
    paths = _paths_of(Path(cfg.resume)) if cfg.get("resume") else {}
    hydra_cfg = HydraConfig.get()
    choices = {group: str(choice) for group, choice in hydra_cfg.runtime.choices.items() if choice is not None}
    swept = hydra_cfg.mode == RunMode.MULTIRUN
    made = {
        "run_id": secrets.token_hex(ID_BYTES),
        "run_command": hydra_cfg.job.name,
        "run_name": " ".join([_name(choices, cfg.seed), *(_other_overrides(hydra_cfg) if swept else ())])[:MAX_NAME],
        "run_group": _sweep(hydra_cfg) if swept else f"{choices.get('base_model')}-{_about(choices)}",
    }
    with open_dict(cfg):
        for key, value in made.items():
            if cfg.paths.get(key) is None:
                cfg.paths[key] = paths.get(key) or value


def _paths_of(run: Path) -> dict[str, Any]:
    """`paths` as the run was started with."""
    saved: Any = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml"), resolve=False)
    return {key: value for key, value in saved.get("paths", {}).items() if "${" not in str(value)}


def _name(choices: dict[str, str], seed: int) -> str:
    """`add2-rloo-lora-seed0`."""
    about = _about(choices)
    said = [choices[group] for group in NAMED_GROUPS[2:] if choices.get(group) not in (None, UNSAID.get(group))]
    return "-".join([about, *said, f"seed{seed}"])


def _about(choices: dict[str, str]) -> str:
    """What is trained or scored: the task, or the set of them."""
    return choices.get("benchmarks") or choices.get("task") or "prompts"


def _other_overrides(hydra_cfg: DictConfig) -> list[str]:
    """A sweep's overrides of what `_name` does not say, such as `optimizer.lr=0.01`; of a long value its end."""
    pairs = (str(text).lstrip("+~").partition("=") for text in hydra_cfg.overrides.task)
    said = (*NAMED_GROUPS, "seed", "experiment")
    return [f"{key}={value[-MAX_VALUE:]}" for key, _, value in pairs if key not in said]


def _sweep(hydra_cfg: DictConfig) -> str:
    """The last two parts of the sweep's folder: a date and a time, where none was given."""
    return "-".join(Path(hydra_cfg.sweep.dir).resolve().parts[-2:])[-MAX_NAME:]
