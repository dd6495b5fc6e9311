"""One state for all examples in the factored mode, where a base that is quantized merges none.

Not done here: a state for each example (`SVF.per_example`), merged weights (`SVF.merged`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from t2.adapters.svf import SVF


@contextmanager
def unmerged(svf: SVF, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model has `state` (module -> (R,)) and nothing else, whatever mode the adapter was in.

    Raises:
        ValueError: as for `SVF.load`.
    """
    learned = svf.state()
    svf.load(state)
    try:
        with svf.low_rank.applied({}, svf.layers), svf.mode.switched("factored"):
            yield
    finally:
        svf.load(learned)
