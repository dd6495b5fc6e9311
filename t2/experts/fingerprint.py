"""Fingerprints of model weights: the nuclear norms of the adapted matrices.

Two models have the same weights if their norms agree within a tolerance. A hash of the singular values would not do:
their last bits differ between BLAS builds and between fp32 and bf16 copies of a model, and an expert should load on
both. A fine-tune that barely moved the weights can pass for its base, so experts also compare the model's source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from torch import Tensor

# A bf16 copy of a matrix moves its nuclear norm by less than 1e-4 and another BLAS by less still.
FINGERPRINT_TOLERANCE = 2e-4


def fingerprint_of(singular_values: Mapping[str, Tensor]) -> str:
    """The fingerprint, JSON of module -> nuclear norm to 6 significant digits, of module -> singular values (R,).

    Raises:
        ValueError: there is no module, or a value is not finite.
    """
    if not singular_values:
        raise ValueError("No singular values to make a fingerprint of. Adapt at least one module.")
    norms = {module: s.double().sum().item() for module, s in sorted(singular_values.items())}
    for module, norm in norms.items():
        if not math.isfinite(norm):
            raise ValueError(f"The singular values of {module} sum to {norm}: its weights are damaged.")
    return json.dumps({module: float(f"{norm:.6g}") for module, norm in norms.items()})


def modules_of(fingerprint: str) -> set[str]:
    """The modules that a fingerprint has norms of; ValueError for text that is no fingerprint."""
    return set(_norms(fingerprint))


def same_weights(a: str, b: str) -> bool:
    """Whether two fingerprints agree on the modules they share; False if they share none."""
    worst = largest_difference(a, b)
    return worst is not None and worst[1] <= FINGERPRINT_TOLERANCE


def largest_difference(a: str, b: str) -> tuple[str, float] | None:
    """The shared module with the largest relative difference of nuclear norms, and that; None if none is shared."""
    first, second = _norms(a), _norms(b)
    differences = {
        module: abs(first[module] - second[module]) / max(first[module], second[module], 1e-30)
        for module in first
        if module in second
    }
    return max(differences.items(), key=lambda item: item[1]) if differences else None


def _norms(fingerprint: str) -> dict[str, float]:
    try:
        norms = {module: float(norm) for module, norm in json.loads(fingerprint).items()}
        if not all(math.isfinite(norm) for norm in norms.values()):
            raise ValueError("a norm is NaN or infinite")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"A fingerprint is a JSON object of module names and nuclear norms; got {fingerprint[:80]!r}."
        ) from error
    return norms


def weights_note(trained: str, loaded: str) -> str:
    """A sentence for error messages: whether two fingerprints agree, and where they differ most."""
    worst = largest_difference(trained, loaded)
    if worst is None:
        return "Their fingerprints share no module, so their weights cannot be compared."
    module, difference = worst
    verdict = "Their weights agree" if difference <= FINGERPRINT_TOLERANCE else "Their weights differ"
    return f"{verdict}: nuclear norms are furthest apart at {module}, by {difference:.1e} of their size."
