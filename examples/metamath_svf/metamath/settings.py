"""What an experiment folder, experiments/METHOD/NAME, says in its adapter_config.json and training_params.json.

The layout is PEFT's. `default_training_params.json` holds the values of PEFT's published runs, and an experiment's
`training_params.json` replaces whole keys of it. `adapter_config.json` holds the settings of `t2.adapters.svf.SVF`.

Not done here: what PEFT's keys `compile`, `use_gc`, `use_amp`, `autocast_adapter_dtype` and `init_kv_cache_prefix` do.
Other values of them than those of the published runs are refused.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from t2.adapters.svf import SVF
from t2.run.files import parse_json
from t2.run.messages import check_choice, check_range, did_you_mean

HERE = Path(__file__).resolve().parents[1]
FIXED: dict[str, Any] = {
    "compile": False,
    "use_gc": False,
    "use_amp": False,
    "autocast_adapter_dtype": True,  # z is fp32 always
    "init_kv_cache_prefix": None,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """PEFT's training parameters, in the order of its results.

    Raises:
        ValueError: a value is out of its range, or is one that only PEFT's own runner has.
    """

    model_id: str
    dtype: str
    max_seq_length: int
    batch_size: int
    batch_size_eval: int
    max_steps: int
    eval_steps: int
    compile: bool
    use_gc: bool
    query_template: str
    seed: int
    grad_norm_clip: float  # 0: not clipped
    optimizer_type: str  # a class of torch.optim
    optimizer_kwargs: dict[str, Any]
    lr_scheduler: str | None
    use_amp: bool
    autocast_adapter_dtype: bool
    generation_kwargs: dict[str, Any]
    attn_implementation: str | None
    init_kv_cache_prefix: str | None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("max_seq_length", "batch_size", "batch_size_eval", "max_steps", "eval_steps"):
            check_range(name, getattr(self, name), at_least=1)
        check_range("eval_steps", self.eval_steps, at_most=self.max_steps)
        check_range("grad_norm_clip", self.grad_norm_clip, at_least=0)
        check_choice("dtype", self.dtype, ("bfloat16", "float32"))
        check_choice("lr_scheduler", str(self.lr_scheduler), ("cosine", "None"))
        optimizers = [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
        check_choice("optimizer_type", self.optimizer_type, optimizers)
        if "{query}" not in self.query_template:
            raise ValueError(f"query_template is {self.query_template!r}; it must hold {{query}}.")
        for name, value in FIXED.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed here: {value!r}, as in PEFT's table.")


@dataclass(frozen=True)
class Experiment:
    """An experiment's name (`svf/llama-3.2-3B-top64`), its training parameters and its settings of SVF."""

    name: str
    train: TrainConfig
    adapter: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Experiment:
        """Read an experiment folder.

        Raises:
            FileNotFoundError: there is no adapter_config.json.
            ValueError: the path is not experiments/METHOD/NAME, or a file has a key or value that is not allowed.
        """
        parts = folder.resolve().parts[-3:]
        if len(parts) < 3 or parts[0] != "experiments":
            raise ValueError(f"The folder is {folder}; it must be experiments/METHOD/NAME, as PEFT's are.")
        adapter = _read(folder / "adapter_config.json")
        check_choice("peft_type", str(adapter.pop("peft_type", None)), ("SVF",))
        _check_keys(adapter, inspect.signature(SVF).parameters, folder / "adapter_config.json")
        own = folder / "training_params.json"
        given = _read(own) if own.is_file() else {}
        names = [field.name for field in fields(TrainConfig)]
        _check_keys(given, names, own)
        train = TrainConfig(**{**_read(HERE / "default_training_params.json"), **given})
        return cls("/".join(parts[1:]), train, adapter)

    def build(self) -> SVF:
        """The adapter, not injected yet; ValueError where settings contradict each other."""
        return SVF(**{"seed": self.train.seed, **self.adapter})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        found = ", ".join(sorted(other.name for other in path.parent.glob("*"))) or "nothing"
        raise FileNotFoundError(f"There is no {path}; in that folder: {found}. Give the folder of an experiment.")
    content = parse_json(path.read_bytes(), str(path), "Correct it.")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {json.dumps(content)[:40]}; a JSON object is needed.")
    return content


def _check_keys(given: dict[str, Any], allowed: Any, path: Path) -> None:
    for key in given.keys() - set(allowed):
        raise ValueError(f"{path} has the key {key!r}; allowed: {', '.join(allowed)}.{did_you_mean(key, allowed)}")
