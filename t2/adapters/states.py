"""Checks of states that are handed to an adapter: modules, shapes, numbers of states.

A state is module -> z (R,), the effective multipliers of all singular values of a matrix; per-example scales are D
states, module -> (D, R). The states of adapters other than SVF are tensors by parameter name. Here is also which token
of a batch a state of its own is for. Not done here: what a parametrization or a spectrum can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from t2.run.messages import did_you_mean


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


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError for a name that is no parameter's, or a wrong shape; `shapes` are parameter -> shape."""
    for name, value in state.items():
        if name not in shapes:
            raise ValueError(
                f"No parameter of the adapter is called {name!r}; this adapter has {_some(shapes)}."
                f"{did_you_mean(name, shapes)}"
            )
        if tuple(value.shape) != shapes[name]:
            raise ValueError(f"{name}: got a tensor of shape {tuple(value.shape)}, expected {shapes[name]}.")


def by_token(states: Tensor, shape: torch.Size) -> Tensor:
    """States (N, k) of N examples in a form that multiplies (N, ..., k), the batch `shape` (N, ..., n_in).

    Some blocks flatten tokens to (N T, n_in), example by example: shared experts of mixtures, OPT. Then it is (N T, k).

    Raises:
        ValueError: a batch of another number of examples.
    """
    count, size = states.shape
    if len(shape) == 2 and shape[0] % count == 0:
        return states.repeat_interleave(shape[0] // count, 0)
    if len(shape) < 2 or shape[0] != count:
        raise ValueError(
            f"There are states of {count} examples, and a matrix is given a batch of shape {tuple(shape)}; allowed: "
            f"({count}, ..., n_in), or all tokens flattened, ({count} T, n_in). Use pass2=merged and "
            "generation.mode=merged."
        )
    return states.view(count, *(1,) * (len(shape) - 2), size)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
