"""What the server tells of its experts: for a page that shows them, and for who chooses mixing weights by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2.experts.compatibility import natural_order
from t2.experts.expert import Expert
from t2.experts.pool import ExpertPool
from t2.serving.catalog import Catalog


def describe_pool(catalog: Catalog, examples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The base model, the strategies and the experts, with prompts of each domain to try."""
    experts = [] if catalog.pool is None else [_about(catalog.pool, name) for name in catalog.domains]
    return {
        "base_model": catalog.lm.source,
        "context_length": catalog.lm.context_length,
        "strategies": [*catalog.strategies],
        "experts": experts,
        "examples": {domain: list(prompts) for domain, prompts in examples.items()},
    }


def _about(pool: ExpertPool, name: str) -> dict[str, Any]:
    expert = pool.experts[name]
    about = expert.metadata
    return {
        "name": name,
        "task": about.task,
        "description": about.description if isinstance(expert, Expert) else f"LoRA of rank {expert.rank}",
        "objective": about.objective,
        "numbers": sum(map(len, expert.scales.values())) if isinstance(expert, Expert) else expert.parameter_count,
        "trained_on": about.base_model,
        "steps": about.step,
        "val_before": about.val_before,
        "val_after": about.val_after,
    }


def heat_map(pool: ExpertPool, name: str) -> dict[str, Any]:
    """How far an expert's z is from 1, by layer and kind of matrix; None where a layer has no such matrix.

    `mean_abs`, `mean` and `std` are of z - 1 over the matrix's singular values, a row for each of `layers` with a
    column for each of `modules`. A LoRA's are 0: it changes no singular value by a number.
    """
    cells: dict[tuple[int, str], tuple[float, float, float]] = {}
    for module in pool.modules:
        change = pool.multipliers(name)[module].double() - 1.0
        numbers = (float(change.abs().mean()), float(change.mean()), float(change.std(correction=0)))
        cells[_place(module)] = numbers
    layers = sorted({layer for layer, _ in cells})
    kinds = sorted({kind for _, kind in cells}, key=natural_order)
    tables = {
        key: [[cells[layer, kind][part] if (layer, kind) in cells else None for kind in kinds] for layer in layers]
        for part, key in enumerate(("mean_abs", "mean", "std"))
    }
    return {"name": name, "layers": layers, "modules": kinds, **tables}


def _place(module: str) -> tuple[int, str]:
    """The layer of a module and the rest of its name: model.layers.3.mlp.up_proj -> (3, mlp.up_proj)."""
    parts = module.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
    return (0, module) if at is None else (int(parts[at]), ".".join(parts[at + 1 :]))
