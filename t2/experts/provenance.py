"""What an exported folder says of itself in `export.json`: base model, expert or mixture, version of t2.

The hashes of an expert's training prompts are left out. Not done here: the export (`t2.experts.export_hf`,
`t2.experts.export_lora`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import t2
from t2.experts.expert import Expert
from t2.experts.lora_expert import LoraExpert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.run.fetch import file_sha256
from t2.run.files import atomic_path

EXPORT_FILE = "export.json"


def of_expert(expert: Expert, path: Path) -> dict[str, Any]:
    """What is known of one expert, out of the file at `path`."""
    return {"expert": {"sha256": file_sha256(path), **_told(expert)}}


def of_mixture(pool: ExpertPool, mixture: Mixture) -> dict[str, Any]:
    """What is known of a mixture: its mixing weights by domain (one, or one per matrix), rule, pool and experts."""
    weights = {
        domain: row[0] if len(row) == 1 else list(row)
        for domain, row in zip(pool.domains, mixture.weights, strict=True)
    }
    experts = {domain: _told(expert) for domain, expert in pool.experts.items()}
    return {"mixture": {"weights": weights, "rule": mixture.rule, "pool": pool.identity, "experts": experts}}


def save_provenance(folder: Path, *, to: str, base_model: str, dtype: str, applied: Mapping[str, Any]) -> None:
    """Write `export.json`; `applied` is what was exported, and what was measured of it."""
    content = {"to": to, "t2_version": t2.__version__, "base_model": base_model, "dtype": dtype, **applied}
    with atomic_path(folder / EXPORT_FILE) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _told(expert: Expert | LoraExpert) -> dict[str, Any]:
    known = asdict(expert.metadata)
    return {name: value for name, value in known.items() if name not in ("prompts", "fingerprint", "format_version")}
