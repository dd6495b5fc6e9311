"""Reads and writes mixture.json: a mixture, the pool it belongs to, and how it was found.

The file holds the identity of its pool, so that mixing weights are never applied to other experts. Mixing weights go by
domain, so the order of the pool may differ. `details` holds what the strategy records (such as the history of a
search); it is not read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import t2
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.run.files import atomic_path, parse_json
from t2.run.messages import did_you_mean

FORMAT_VERSION = 2  # version 1 called the mixing weights alphas
MIXTURE_FILE = "mixture.json"  # its name in a run's folder
_FIELDS = ("weights", "rule", "domains", "pool", "strategy", "task", "seed", "details", "t2_version")


def save_mixture(
    path: Path,
    mixture: Mixture,
    pool: ExpertPool,
    *,
    strategy: str,
    task: str,
    seed: int,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write a mixture of the pool's experts and return the path; what was there stays intact if that fails.

    Raises:
        ValueError: the mixture is for another number of experts or matrices, or `details` holds NaN or infinity.
        OSError: the file cannot be written.
    """
    pool.check_mixture(mixture)
    content = {
        "format_version": FORMAT_VERSION,
        "weights": mixture.weights,
        "rule": mixture.rule,
        "domains": pool.domains,
        "pool": pool.identity,
        "strategy": strategy,
        "task": task,
        "seed": seed,
        "details": dict(details or {}),
        "t2_version": t2.__version__,
    }
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"The details of a mixture must be finite numbers ({error}); nothing was written.") from error
    with atomic_path(path) as partial:
        partial.write_text(text + "\n")
    return path


def find_mixture(path: Path | str) -> Path:
    """The mixture file in the folder of a run, or the file itself.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path) / MIXTURE_FILE if Path(path).is_dir() else Path(path)
    if path.is_file():
        return path
    hint = did_you_mean(path.name, sorted(other.name for other in path.parent.glob("*.json")))
    raise FileNotFoundError(f"No mixture file at {path}.{hint} Give a {MIXTURE_FILE}, or the folder adapt.py wrote.")


def load_mixture(path: Path | str, pool: ExpertPool) -> Mixture:
    """Read a mixture of the experts of `pool`, its mixing weights in the order of the pool.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another version, or for another pool.
    """
    path = find_mixture(path)
    try:
        content = _read(path.read_bytes())
        _check_pool(content, pool)
        rows = dict(zip(content["domains"], content["weights"], strict=True))
        mixture = Mixture(tuple(tuple(rows[domain]) for domain in pool.domains), content["rule"])
        pool.check_mixture(mixture)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return mixture


def prompts_behind(path: Path) -> frozenset[str] | None:
    """Hashes of the solved examples that a saved mixture was found on; None of one of an older t2.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    try:
        prompts = _read(path.read_bytes())["details"].get("prompts")
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return None if prompts is None else frozenset(map(str, prompts))


def _read(content: bytes) -> dict[str, Any]:
    """Parse the file and check the types of its fields."""
    fields = parse_json(content, "it", "Fit the mixture again.")
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version == 1:
        raise ValueError("an older t2 wrote it, which called the mixing weights alphas. Fit the mixture again.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"its format_version is {version!r}; this t2 reads {FORMAT_VERSION}. Give a {MIXTURE_FILE} of adapt.py, or "
            "fit the mixture again."
        )
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}. Fit the mixture again.")
    domains, weights = fields["domains"], fields["weights"]
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        raise ValueError(f"its domains are {domains!r}; expected a list of names.")
    if not isinstance(weights, list) or not all(isinstance(row, list) and all(map(_is_number, row)) for row in weights):
        raise ValueError("its mixing weights are no lists of numbers, one list per domain. Fit the mixture again.")
    if len(weights) != len(domains):
        raise ValueError(
            f"it has {len(weights)} rows of mixing weights for {len(domains)} domains. Fit the mixture again."
        )
    return dict(fields)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_pool(content: Mapping[str, Any], pool: ExpertPool) -> None:
    domains = content["domains"]
    if sorted(domains) != sorted(pool.domains):
        raise ValueError(
            f"it was made for a pool of {', '.join(domains)}; this one has {', '.join(pool.domains)}. Load that pool, "
            "or fit the mixture again."
        )
    if content["pool"] != pool.identity:
        raise ValueError(
            f"it was made for other experts of the same domains (pool {content['pool']}, this one is {pool.identity}). "
            "Load those, or fit the mixture again."
        )
