"""Whether the disk has room for the decompositions of a model, before the first is computed.

A matrix (m, n) takes 4 (m + n + 1) k bytes for k triplets: of all of them, more than the matrix itself. Those that have
a file in the cache are counted as done, whatever is in it: it is replaced, not added to.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch

from t2.adapters.truncated_svd import is_cheaper

log = logging.getLogger(__name__)
TOLD = 1e9  # bytes, from which on the log says what is written, and where
_ENDING = re.compile(r"\.[0-9a-f]{16}(\.top\d+)?\.safetensors$")


def check_space(folder: Path | None, shapes: Mapping[str, Sequence[int]], counts: Mapping[str, int]) -> None:
    """Raise OSError where the decompositions of matrices (..., m, n) that are not in `folder` do not fit its disk.

    `counts` (name -> k) are of matrices whose k largest triplets are enough. `folder=None` caches nothing.
    """
    if folder is None:
        return
    there = {_ENDING.sub("", file.name) for file in folder.glob("*.safetensors")}
    needed = sum(file_bytes(shape, counts.get(name)) for name, shape in shapes.items() if name not in there)
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"The disk has too little space for the singular value decompositions of this model: they take "
            f"{needed / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free. Free some space, set T2_CACHE to a "
            "folder on another disk, or set adapter.cache=false, which computes them anew in every run",
        )
    if needed > TOLD:
        log.info("Singular value decompositions, once for this model: %.1f GB in %s (T2_CACHE)", needed / 1e9, folder)


def file_bytes(shape: Sequence[int], k: int | None) -> int:
    """The bytes of the decompositions of matrices (..., m, n): k triplets of each where they are cheaper, else all."""
    *of, m, n = shape
    count = k if k is not None and is_cheaper(torch.Size((m, n)), k) else min(m, n)
    return 4 * prod(of) * count * (m + n + 1)
