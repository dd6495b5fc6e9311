"""Checks of states that are handed to an adapter: modules, shapes, numbers of states.

A state is module -> z (R,), the effective multipliers of all singular values of a matrix; per-example scales are D
states, module -> (D, R). Not done here: what a parametrization or a spectrum can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


def check_state(state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
    """Raise ValueError for a module that is not adapted or a wrong length; `sizes` are module -> R."""
    for name, z in state.items():
        if name not in sizes:
            raise ValueError(f"No adapted matrix is called {name!r}; this adapter has {_some(sizes)}.")
        if z.shape != (sizes[name],):
            raise ValueError(f"{name}: got z of shape {tuple(z.shape)}, expected {(sizes[name],)}.")


def check_per_example(scales: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless there are equally many states of exactly the adapted matrices; `sizes`: module -> R."""
    differing = sizes.keys() ^ scales.keys()
    if differing:
        raise ValueError(f"per_example() needs scales for exactly the adapted matrices; differing: {_some(differing)}.")
    for name, size in sizes.items():
        if scales[name].ndim != 2 or scales[name].shape[1] != size:
            raise ValueError(f"{name}: got scales of shape {tuple(scales[name].shape)}, expected (D, {size}).")
    counts = {len(states) for states in scales.values()}
    if len(counts) > 1:
        raise ValueError(f"per_example() needs the same number of states for every matrix; got {sorted(counts)}.")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
