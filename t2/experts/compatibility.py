"""Checks whether experts can be mixed: valid domains, one base model, and the same adapted matrices.

Whether an expert fits a loaded model is checked by `t2.experts.expert.Expert.check`.
"""

from __future__ import annotations

import re

from t2.experts.expert import Expert
from t2.experts.fingerprint import have_different_norms, same_weights, weights_note
from t2.types import OTHER

DISPATCH = "dispatch"  # the domain of the expert that is applied while a strategy chooses
RESERVED_DOMAINS = {
    OTHER: "the label of prompts that no expert is for, which the base model answers; rename the domain",
    DISPATCH: "the expert that is applied while choosing; give it as the pool's `dispatch`",
}


def check_domain(domain: str) -> None:
    """Raise ValueError for a domain that is empty, has spaces around it or a slash in it, or is reserved."""
    if not domain or domain != domain.strip():
        raise ValueError(f"The domain {domain!r} is empty or has spaces around it; a domain is a label such as math.")
    if "/" in domain:
        raise ValueError(f"The domain {domain!r} has a slash in it, which addresses and files part; name it without.")
    if domain.casefold() in RESERVED_DOMAINS:
        raise ValueError(f"No expert's domain may be called {domain!r}: that is {RESERVED_DOMAINS[domain.casefold()]}.")


def check_same_model(first: str, a: Expert, second: str, b: Expert) -> None:
    """Raise ValueError unless the experts `a` and `b`, of the domains named, are of one base model and its weights.

    Where the fingerprints have different norms, it is left to the comparison of each with the loaded model.
    """
    one, other = a.metadata, b.metadata
    prints = (one.fingerprint, other.fingerprint)
    if one.base_model == other.base_model and (same_weights(*prints) or have_different_norms(*prints)):
        return
    raise ValueError(
        f"The experts of {first!r} and {second!r} are of different models: {one.base_model} and {other.base_model}. "
        f"{weights_note(one.fingerprint, other.fingerprint)} Mix experts of one model; "
        "t2.experts.transfer brings one over."
    )


def check_same_matrices(first: str, a: Expert, second: str, b: Expert) -> None:
    """Raise ValueError unless the experts `a` and `b`, of the domains named, scale the same modules and sizes R."""
    differing = sorted(a.scales.keys() ^ b.scales.keys(), key=natural_order)
    if differing:
        owner = first if differing[0] in a.scales else second
        raise ValueError(
            f"The experts of {first!r} and {second!r} scale different modules, {len(differing)} in all: {differing[0]} "
            f"is in that of {owner!r} alone. Train both with the same adapter.modules and adapter.layers."
        )
    for module, z in a.scales.items():
        if z.shape != b.scales[module].shape:
            raise ValueError(
                f"The experts of {first!r} and {second!r} have {len(z)} and {len(b.scales[module])} values for "
                f"{module}: they are of models of different sizes. Mix experts of one model."
            )


def natural_order(name: str) -> list[tuple[int, str]]:
    """The sort key of module names under which block 2 comes before block 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
