"""PEFT's methods and their settings: which t2 takes, and PEFT's configuration made of them for the chosen matrices.

Not done here: injecting (`t2.adapters.peft`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from t2.run.messages import did_you_mean

# No dense weight in the place of a matrix can hold what these do, or PEFT's own training loop takes part.
UNFIT = (
    *("adalora", "adaption_prompt", "beft", "cartridge", "cpt", "lily", "ln_tuning", "multitask_prompt_tuning"),
    *("p_tuning", "poly", "prefix_tuning", "prompt_tuning", "shadow", "trainable_tokens", "xlora"),
)
TUNERS = {kind.value.lower(): kind for kind in PEFT_TYPE_TO_TUNER_MAPPING if kind.value.lower() not in UNFIT}
OURS = {  # keys of PEFT's configurations that this adapter sets -> what a user sets instead
    "target_modules": "adapter.modules", "exclude_modules": "adapter.modules", "layers_to_transform": "adapter.layers",
    "layers_pattern": "adapter.layers", "peft_type": "adapter.method", "modules_to_save": None, "inference_mode": None,
    "task_type": None, "target_parameters": None, "trainable_token_indices": None,
}  # fmt: skip


def check_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that the method does not have, that t2 sets itself, or that it has no use for."""
    kind = _config_class(method)
    names = sorted(_keys(method) - OURS.keys())
    for key, value in settings.items():
        if key in OURS:
            instead = f"; set {OURS[key]}" if OURS[key] else ""
            raise ValueError(f"adapter.settings.{key} is t2's own to set{instead}. Leave it out.")
        if key not in names:
            raise ValueError(
                f"adapter.settings.{key} is no setting of PEFT's {kind.__name__}; allowed: {', '.join(names)}."
                f"{did_you_mean(key, names)}"
            )
        if key.endswith("dropout") and value:
            raise ValueError(
                f"adapter.settings.{key} is {value}, and t2 trains in evaluation mode, without dropout. Set it to 0."
            )


def beyond_defaults(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not at PEFT's defaults, sorted."""
    defaults = _config_class(method)().to_dict()
    return {key: value for key, value in sorted(settings.items()) if value != defaults[key]}


def make_config(
    method: str,
    settings: Mapping[str, Any],
    source: str,
    targets: Mapping[str, nn.Module],
    feedforward: Mapping[str, nn.Module],
) -> Any:
    """PEFT's configuration for the matrices `targets` of the model `source`, `feedforward` among them (IA3).

    Raises:
        ValueError: PEFT refuses the settings.
    """
    given = dict(settings)
    if "feedforward_modules" in given:
        given["feedforward_modules"] = [name for name in feedforward if name in targets]
    if any(isinstance(module, Conv1D) for module in targets.values()) and "fan_in_fan_out" in _keys(method):
        given.setdefault("fan_in_fan_out", True)
    try:
        return _config_class(method)(
            target_modules=list(targets), base_model_name_or_path=source, inference_mode=False, **given
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"PEFT refuses adapter.settings of {method}: {error}") from error


def _config_class(method: str) -> Any:
    return PEFT_TYPE_TO_CONFIG_MAPPING[TUNERS[method]]


def _keys(method: str) -> set[str]:
    return {field.name for field in fields(_config_class(method))}
