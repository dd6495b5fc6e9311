"""The identity of a checkpoint: its base model and the shapes of its trained parameters, checked on resume.

Frozen weights are in no checkpoint, so that nothing else would notice another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel


class TrainableAdapter(Adapter, Protocol):
    """An adapter that is also a module, so that checkpoints hold its parameters."""

    def state_dict(self) -> dict[str, Any]:
        """The raw parameters."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load raw parameters in place."""
        ...


def identity_of(lm: LanguageModel, adapter: TrainableAdapter) -> dict[str, Any]:
    """The entries of a checkpoint that identify its model and adapter."""
    return {
        "base_model": lm.source,
        "trainable": {name: list(value.shape) for name, value in adapter.state_dict().items()},
    }


def check_identity(saved: Mapping[str, Any] | None, present: Mapping[str, Any]) -> None:
    """Raise ValueError unless `saved`, None where a checkpoint has none, is of the model and adapter at hand."""
    if saved is None:
        raise ValueError("This checkpoint was not written by t2; resume=RUN takes the folder of a training run.")
    if saved["base_model"] != present["base_model"]:
        raise ValueError(
            f"The checkpoint was trained on {saved['base_model']!r} and the model loaded is {present['base_model']!r}."
        )
    if saved["trainable"] != present["trainable"]:
        raise ValueError(
            f"The checkpoint holds {len(saved['trainable'])} vectors and the adapter has {len(present['trainable'])}, "
            "or their shapes differ: resume with the adapter settings the run was started with."
        )
