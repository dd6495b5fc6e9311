"""Whether two sets of weights are the same, told by the nuclear norms of their matrices.

Not a hash of the singular values: the last bits of an SVD differ between BLAS builds, and between an fp32 and a bf16
copy of one model, and an expert should load on both. Another revision of the weights moves the norms by more. A
fine-tune that barely moved them can pass for its base, which is why experts also compare the model's source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from torch import Tensor

# A bf16 copy of a matrix moves its nuclear norm by less than 1e-4 and another BLAS by less still.
FINGERPRINT_TOLERANCE = 2e-4


def fingerprint_of(singular_values: Mapping[str, Tensor]) -> str:
    """JSON of module -> nuclear norm, 6 significant digits, from module -> singular values (R,).

    Not a hash: the last bits of an SVD differ between BLAS builds and between fp32 and bf16 copies.

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


def same_weights(a: str, b: str) -> bool:
    """Whether two fingerprints agree on the modules they share; False if they share none."""
    worst = largest_difference(a, b)
    return worst is not None and worst[1] <= FINGERPRINT_TOLERANCE


def largest_difference(a: str, b: str) -> tuple[str, float] | None:
    """The shared module whose nuclear norms differ most, and by what share; None if no module is shared."""
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
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"A fingerprint is a JSON object of module names and nuclear norms; got {fingerprint[:80]!r}."
        ) from error
    return norms


def weights_note(trained: str, loaded: str) -> str:
    """A sentence on whether two fingerprints are of the same weights, and where they differ most."""
    worst = largest_difference(trained, loaded)
    if worst is None:
        return "Their fingerprints share no module, so their weights cannot be compared."
    module, difference = worst
    verdict = "Their weights agree" if difference <= FINGERPRINT_TOLERANCE else "Their weights differ"
    return f"{verdict}: nuclear norms are furthest apart at {module}, by {difference:.1e} of their size."
