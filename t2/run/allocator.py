"""glibc's allocator keeps what is freed, instead of giving it back to the system and asking for it again.

By default every block of more than 32 MB is mapped anew and unmapped when it is freed, so that a training step on a
CPU has the system clear the pages of the same activations again and again: an update took 1.2 times as long (LOG.md).
Memory that was needed once stays with the process then, up to its own peak.
"""

from __future__ import annotations

import ctypes
import os

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1  # bytes at the top of the heap that are kept
OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Keep freed memory for the rest of the process; returns whether that was done.

    It is not where the user has settings of an allocator in the environment, where there is a GPU (whose memory is
    torch's, and where a large model's weights leave the host), and where the C library is none of glibc.
    """
    if any(os.environ.get(name) for name in OWN_SETTINGS):
        return False
    import torch

    if torch.cuda.is_available():
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, LARGEST))
