"""What a training run saves, and what the scripts read: an expert where the adapter is SVF, else an adapter's weights.

    adapter                    files in the run's folder
    SVF                        expert.safetensors
    any other                  adapter.safetensors
    one that can be exported   that, and peft/, which `PeftModel.from_pretrained` loads

Only experts can be mixed (`t2.experts.pool`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from t2.adapters.base import Adapter, ExportableAdapter, NamedAdapter
from t2.adapters.svf import SVF
from t2.experts.adapter_weights import AdapterWeights, description
from t2.experts.content import ADAPTER_FILE, out_of_range
from t2.experts.expert import EXPERT_FILE, Expert, ExpertMetadata, apply_expert
from t2.experts.fingerprint import adapter_fingerprint

EXPORT_FOLDER = "peft"  # in the folder of a training run
Trained = Expert | AdapterWeights
UNKNOWN_ORIGIN = {"fingerprint": "", "parametrization": ""}  # until the adapter is in the model


def origin(adapter: Adapter) -> dict[str, Any]:
    """The fields of `ExpertMetadata` that say which adapter in which weights is trained.

    Raises:
        ValueError: an adapter whose state could not be saved.
    """
    if isinstance(adapter, NamedAdapter):
        about = {"parametrization": adapter.name, "adapter": description(adapter)}
        if (coverage := getattr(adapter, "coverage", None)) is not None:  # steering vectors are of no matrices
            about["coverage"] = str(coverage)
        return {"fingerprint": adapter_fingerprint(adapter), **about}
    if isinstance(adapter, SVF):
        learned = None if adapter.spectrum.is_default else str(adapter.spectrum)
        about = {"parametrization": adapter.parametrization, "coverage": str(adapter.coverage)}
        return {"fingerprint": adapter_fingerprint(adapter), "learned": learned, **about}
    raise ValueError(
        f"What a {type(adapter).__name__} learns cannot be saved: derive it from SVF, or give it what "
        "t2.adapters.base.NamedAdapter has."
    )


def trained(adapter: Adapter, metadata: ExpertMetadata) -> Trained:
    """The present state of an adapter as what a run saves."""
    kind = AdapterWeights if isinstance(adapter, NamedAdapter) else Expert
    return kind(adapter.state(), metadata)


def why_not_kept(one: Trained) -> str | None:
    """Why a state is not worth a file; None where it is."""
    return out_of_range(one.scales) if isinstance(one, Expert) else one.problem


def save_trained(one: Trained, adapter: Adapter, run: Path) -> Path:
    """Write the present state `one` of `adapter` into the folder of a run; returns its file."""
    if isinstance(one, Expert):
        return one.save(run / EXPERT_FILE)
    if isinstance(adapter, ExportableAdapter):
        adapter.export(run / EXPORT_FOLDER)
    return one.save(run / ADAPTER_FILE)


def find_trained(path: Path | str, adapter: Adapter) -> Path:
    """The file of what a run saved, in its folder; any other path is returned as it is.

    Raises:
        FileNotFoundError: the folder holds no expert.
        ValueError: it holds one of another kind of adapter.
    """
    return AdapterWeights.find(path) if isinstance(adapter, NamedAdapter) else Expert.find(path)


def load_trained(path: Path | str, adapter: Adapter) -> Trained:
    """Read what a run saved, with the kind of adapter that it is to be applied with; no model is needed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind of adapter, or of other settings of it.
    """
    path = find_trained(path, adapter)
    if not isinstance(adapter, NamedAdapter):
        return Expert.load(path)
    weights = AdapterWeights.load(path)
    weights.check_settings(adapter)
    return weights


def apply_trained(adapter: Any, one: Trained, *, source: str, transfer: bool = False) -> None:
    """Apply what a run saved to the injected adapter; ValueError where it does not fit the model or the adapter."""
    if isinstance(one, Expert):
        apply_expert(adapter, one, source=source, transfer=transfer)
        return
    one.check(adapter, base_model=source, transfer=transfer)
    adapter.load(one.state)


def check_mixable(adapter: Adapter, asked: Collection[str]) -> None:
    """Raise ValueError where something asked for (keys such as `experts`) mixes experts, and the adapter has no z."""
    if asked and isinstance(adapter, NamedAdapter):
        raise ValueError(
            f"adapter={adapter.name} has no multipliers z that could be mixed, which {' and '.join(sorted(asked))} "
            "would do. Set adapter=svf, or leave that out; evaluate.py scores one trained adapter with expert=RUN."
        )
