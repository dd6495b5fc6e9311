"""What a training run of another adapter than SVF saves: its parameters by name, and the metadata that experts have.

The file is safetensors with string metadata and a checksum, as an expert's is; `metadata.adapter` holds the adapter's
settings, so that no state is applied with others. Not done here: mixing, which needs multipliers of singular values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2.adapters.base import NamedAdapter
from t2.experts.content import ADAPTER_FILE
from t2.experts.expert import EXPERT_FILE, ExpertMetadata
from t2.experts.fingerprint import adapter_fingerprint, same_weights, weights_note
from t2.run.tensor_files import read_tensors, save_tensors


@dataclass(frozen=True)
class AdapterWeights:
    """The state of an adapter, parameter name -> fp32 tensor; its metadata says which adapter and which base model."""

    state: Mapping[str, Tensor]
    metadata: ExpertMetadata

    @property
    def parameter_count(self) -> int:
        """How many numbers were learned."""
        return sum(value.numel() for value in self.state.values())

    @property
    def problem(self) -> str | None:
        """Why this state is of no use; None where it is."""
        bad = [name for name, value in self.state.items() if not bool(value.isfinite().all())]
        if bad:
            return (
                f"{len(bad)} of {len(self.state)} parameters have values that are NaN or infinite, {bad[0]} for one. "
                "The training diverged: lower the learning rate or take an earlier checkpoint."
            )
        return None

    def save(self, path: Path) -> Path:
        """Write it to `path` and return that; the same state gives the same bytes.

        Raises:
            ValueError: a number is not finite.
            OSError: the file cannot be written, a full disk included; what was there is untouched.
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        assert self.metadata.adapter is not None, "it says which adapter the state is of"
        save_tensors(path, self.state, self.metadata.to_strings())
        return path

    @staticmethod
    def find(path: Path | str) -> Path:
        """The file in the folder of a training run; any other path is returned as it is.

        Raises:
            ValueError: the folder holds an SVF expert.
        """
        path = Path(path)
        if not path.is_dir():
            return path
        if not (path / ADAPTER_FILE).is_file() and (path / EXPERT_FILE).is_file():
            raise ValueError(f"{path} holds {EXPERT_FILE}, an SVF expert. Set adapter=svf to apply it.")
        return path / ADAPTER_FILE

    @classmethod
    def load(cls, path: Path | str) -> AdapterWeights:
        """Read the file, or that of a training run's folder; `check` tells whether it fits an adapter and a model.

        Raises:
            FileNotFoundError: there is no such file, or the folder holds none.
            ValueError: it is an SVF expert, no such file, or damaged.
        """
        path = cls.find(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}. Give the folder of a training run that has validated, or its {ADAPTER_FILE}."
            )
        state, strings = read_tensors(path)
        if "adapter" not in strings and "fingerprint" in strings:
            raise ValueError(f"{path} is an SVF expert. Set adapter=svf to apply it.")
        try:
            found = cls(state, ExpertMetadata.from_strings(strings))
            if "adapter" not in strings or found.problem is not None or not state:
                raise ValueError(found.problem or "it does not say of which adapter it is.")
            if wrong := [name for name, value in state.items() if value.dtype != torch.float32]:
                raise ValueError(f"{wrong[0]} is {state[wrong[0]].dtype}; a state is float32.")
            return found
        except ValueError as error:
            raise ValueError(f"{path} cannot be used as the state of an adapter: {error}") from error

    def check_settings(self, adapter: NamedAdapter) -> None:
        """Raise ValueError unless it was trained with an adapter of these settings; needs no model."""
        saved = _parse(self.metadata.adapter)
        kind = self.metadata.parametrization
        if kind != adapter.name:
            raise ValueError(f"The file is of adapter={kind}, and adapter={adapter.name} is set. Set adapter={kind}.")
        present = json.loads(description(adapter))
        differing = [key for key in {**saved, **present} if saved.get(key) != present.get(key)]
        if differing:
            typed = {f"settings.{key}": value for key, value in getattr(adapter, "settings", {}).items()}
            here = {**typed, **present}  # a setting at its default is not in the description, and may be typed
            listed = "; ".join(
                f"adapter.{key} is {_word(here.get(key))} here and {_word(saved.get(key))} in the file"
                for key in differing
            )
            raise ValueError(f"The file is of adapter={kind} with other settings: {listed}. Set them as in training.")

    def check(self, adapter: NamedAdapter, *, base_model: str, transfer: bool = False) -> None:
        """Raise ValueError unless it was trained with this adapter in this model; `transfer` accepts another model."""
        self.check_settings(adapter)
        if transfer:
            return
        trained, loaded = self.metadata.fingerprint, adapter_fingerprint(adapter)
        if self.metadata.base_model == base_model and same_weights(trained, loaded):
            return
        raise ValueError(
            f"The adapter was trained for {self.metadata.base_model}; the loaded model is {base_model}. "
            f"{weights_note(trained, loaded)} Load the model it was trained for, or set transfer=true to use it on "
            "this one."
        )


def description(adapter: NamedAdapter) -> str:
    """The adapter's settings as the metadata of a file holds them, JSON."""
    return json.dumps(adapter.describe(), sort_keys=True)


def _parse(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"The file's adapter settings are no JSON object: {str(text)[:80]!r}. Save it again.")
    return found


def _word(value: Any) -> str:
    return "the default" if value is None else json.dumps(value)
