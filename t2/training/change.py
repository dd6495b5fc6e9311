"""What training has changed of an adapter, in numbers for the log: multipliers of SVF, a norm of any other."""

from __future__ import annotations

import torch

from t2.adapters.base import Adapter, NamedAdapter, PerExampleAdapter


def change_statistics(adapter: Adapter) -> dict[str, float]:
    """`scales/*`: statistics of z - 1 over the multipliers that SVF can learn; `adapter/change_norm` of others."""
    if isinstance(adapter, NamedAdapter):
        return {"adapter/change_norm": adapter.change_norm()}
    state = adapter.state()
    masks = adapter.learnable() if isinstance(adapter, PerExampleAdapter) else {}
    change = torch.cat([z[masks[name]] if name in masks else z.flatten() for name, z in state.items()]) - 1.0
    return {
        "scales/std": float(change.std()) if len(change) > 1 else 0.0,
        "scales/mean": float(change.mean()),
        "scales/max_change": float(change.abs().max()),
    }
