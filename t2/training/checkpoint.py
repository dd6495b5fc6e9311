"""The identity of a checkpoint: its base model, the frozen weights, the shapes of what is trained; checked on resume.

Frozen weights are in no checkpoint, so that nothing else would notice another model. They are identified by the nuclear
norms of the adapted matrices (`t2.experts.fingerprint`) and the Euclidean norms of all frozen parameters, which differ
between runs by rounding alone. Configurations are not compared here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from t2.adapters.base import Adapter, PerExampleAdapter
from t2.experts.fingerprint import adapter_fingerprint, same_weights, weights_note
from t2.models.language_model import LanguageModel

log = logging.getLogger(__name__)
# Between builds of torch and devices, norms of the same fp32 or bf16 numbers differ by the rounding of their sums.
NORM_TOLERANCE = 1e-5
_norms: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()  # computed once: the weights are frozen


class TrainableAdapter(Adapter, Protocol):
    """An adapter that is also a module, so that checkpoints hold its parameters."""

    frobenius_norms: dict[str, float]  # module -> that of the matrix

    def state_dict(self) -> dict[str, Any]:
        """The raw parameters."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load raw parameters in place."""
        ...


def identity_of(lm: LanguageModel, adapter: TrainableAdapter) -> dict[str, Any]:
    """The entries of a checkpoint that identify its model and adapter.

    `learnable` is a hash of which multipliers the numbers are of: the same shapes may be those of others.
    """
    return {
        "learnable": _hash(adapter.learnable()) if isinstance(adapter, PerExampleAdapter) else None,
        "base_model": lm.source,
        "fingerprint": adapter_fingerprint(adapter),
        "frozen": frozen_norms(lm.model),
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
            "or names or shapes differ: resume with the adapter settings, and the t2, that the run was started with."
        )
    if saved.get("learnable", present["learnable"]) != present["learnable"]:
        raise ValueError(
            "The checkpoint holds the numbers of other singular values: resume with the adapter.spectrum (and its "
            "rank, share and seed) that the run was started with."
        )
    if "fingerprint" not in saved:
        log.warning("The checkpoint is of an older t2 and does not say of which weights; they are not compared.")
        return
    if not same_weights(saved["fingerprint"], present["fingerprint"]):
        raise ValueError(
            "The checkpoint was trained on other weights of that model. "
            f"{weights_note(saved['fingerprint'], present['fingerprint'])} Load the weights the run was started with."
        )
    differing = [name for name, norm in present["frozen"].items() if not _same_norm(saved["frozen"].get(name), norm)]
    if differing:
        raise ValueError(
            f"The checkpoint was trained on other weights of that model: {len(differing)} of {len(present['frozen'])} "
            f"parameters differ, {differing[0]} for one. Load the weights the run was started with."
        )


@torch.no_grad()
def frozen_norms(model: nn.Module) -> dict[str, float]:
    """The Euclidean norm of each frozen parameter, by name; computed once for a model."""
    if model not in _norms:
        note_frozen_norms(model, "", model)
    return _norms[model]


@torch.no_grad()
def note_frozen_norms(model: nn.Module, prefix: str, part: nn.Module) -> None:
    """Compute those of a part of `model`, whose names begin with `prefix`, before it is sharded."""
    known = _norms.setdefault(model, {})
    for name, p in part.named_parameters():
        if not p.requires_grad and not isinstance(p, DTensor):
            known[f"{prefix}{name}"] = float(torch.linalg.vector_norm(p.detach().float(), dtype=torch.float64))


def _hash(masks: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for mask in masks.values():
        digest.update(mask.numpy().data)
    return digest.hexdigest()


def _same_norm(saved: float | None, present: float) -> bool:
    return saved is not None and abs(saved - present) <= NORM_TOLERANCE * max(abs(saved), abs(present))
