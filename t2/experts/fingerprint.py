"""Fingerprints of model weights: the nuclear and the Frobenius norms of the adapted matrices.

The nuclear norm is missing where not all singular values were computed, the Frobenius norm in files of an older t2.

Two models have the same weights if their norms agree within a tolerance. A hash of the singular values would not do:
their last bits differ between BLAS builds and between fp32 and bf16 copies of a model, and an expert should load on
both. A fine-tune that barely moved the weights can pass for its base, so experts also compare the model's source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Norms = tuple[float | None, float | None]  # nuclear, Frobenius

# A bf16 copy of a matrix moves its nuclear norm by less than 1e-4 and another BLAS by less still.
FINGERPRINT_TOLERANCE = 2e-4


def fingerprint_of(singular_values: Mapping[str, Tensor], frobenius_norms: Mapping[str, float] | None = None) -> str:
    """The fingerprint, JSON of module -> [nuclear norm, Frobenius norm] to 6 significant digits.

    Args:
        singular_values: module -> (R,), NaN for those that were not computed; the nuclear norm is null then.
        frobenius_norms: module -> Frobenius norm; needed where singular values were not computed.

    Raises:
        ValueError: there is no module, or a norm is not finite.
    """
    if not singular_values:
        raise ValueError("No singular values to make a fingerprint of. Adapt at least one module.")
    norms: dict[str, list[float | None]] = {}
    for module, s in sorted(singular_values.items()):
        given = (frobenius_norms or {}).get(module) if bool(s.isnan().any()) else None
        nuclear = s.double().sum().item() if given is None else None
        frobenius = s.double().square().sum().sqrt().item() if given is None else given
        for norm in (nuclear, frobenius):
            if norm is not None and not math.isfinite(norm):
                raise ValueError(f"The singular values of {module} sum to {norm}: its weights are damaged.")
        norms[module] = [None if norm is None else float(f"{norm:.6g}") for norm in (nuclear, frobenius)]
    return json.dumps(norms)


class WithNorms(Protocol):
    """An adapter that knows the matrices of its model: `singular_values`, too, where it is SVF."""

    frobenius_norms: dict[str, float]  # module -> that of the matrix


def adapter_fingerprint(adapter: WithNorms) -> str:
    """`fingerprint_of` the matrices of an adapter: of the Frobenius norms alone where it knows no singular values."""
    unknown = {module: torch.tensor([torch.nan]) for module in adapter.frobenius_norms}
    return fingerprint_of(getattr(adapter, "singular_values", unknown), adapter.frobenius_norms)


def modules_of(fingerprint: str) -> set[str]:
    """The modules that a fingerprint has norms of; ValueError for text that is no fingerprint."""
    return set(_norms(fingerprint))


def same_weights(a: str, b: str) -> bool:
    """Whether two fingerprints agree on the modules they share; False if they share none."""
    worst = largest_difference(a, b)
    return worst is not None and worst[1] <= FINGERPRINT_TOLERANCE


def have_different_norms(a: str, b: str) -> bool:
    """Whether two fingerprints share modules, and one has the nuclear norms of them alone, the other the Frobenius."""
    return bool(modules_of(a) & modules_of(b)) and largest_difference(a, b) is None


def largest_difference(a: str, b: str) -> tuple[str, float] | None:
    """The shared module with the largest relative difference of norms, and that; None if none can be compared."""
    first, second = _norms(a), _norms(b)
    differences = {
        module: max(found)
        for module in first
        if (found := [*_differences(first[module], second.get(module, (None, None)))])
    }
    return max(differences.items(), key=lambda item: item[1]) if differences else None


def _differences(first: Norms, second: Norms) -> Iterator[float]:
    """The relative difference of each kind of norm that both have."""
    for one, other in zip(first, second, strict=True):
        if one is not None and other is not None:
            yield abs(one - other) / max(one, other, 1e-30)


def _norms(fingerprint: str) -> dict[str, Norms]:
    """Module -> (nuclear norm, Frobenius norm); a fingerprint of an older t2 has a number, the nuclear norm."""
    try:
        norms = {module: _pair(value) for module, value in json.loads(fingerprint).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"A fingerprint is a JSON object of module names and norms; got {fingerprint[:80]!r}."
        ) from error
    return norms


def _pair(value: Any) -> Norms:
    nuclear, frobenius = value if isinstance(value, list) else (float(value), None)
    pair = tuple(None if norm is None else float(norm) for norm in (nuclear, frobenius))
    known = [norm for norm in pair if norm is not None]
    if not known or not all(math.isfinite(norm) for norm in known):
        raise ValueError("a norm is missing, NaN or infinite")
    return pair[0], pair[1]


def weights_note(trained: str, loaded: str) -> str:
    """A sentence for error messages: whether two fingerprints agree, and where they differ most."""
    worst = largest_difference(trained, loaded)
    if worst is None:
        return (
            "Their fingerprints share no module, or one has nuclear norms alone (an older t2) and the other none "
            "(adapter.decomposition=auto; set it to full), so their weights cannot be compared."
        )
    module, difference = worst
    verdict = "Their weights agree" if difference <= FINGERPRINT_TOLERANCE else "Their weights differ"
    return f"{verdict}: norms are furthest apart at {module}, by {difference:.1e} of their size."
