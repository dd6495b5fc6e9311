"""Grouped-query attention on a CPU, without keys and values that are repeated for every query head.

Where there is a mask, transformers copies each head of keys and values for all query heads of its group, since CUDA's
fast kernels take no groups then. torch's kernel for CPUs does: it computes the same numbers from the heads as they are,
so that a rollout and an update are faster (LOG.md). Its gradients of keys and values are summed in another order.
"""

from __future__ import annotations

import os

FORCE_GQA = "TRANSFORMERS_SDPA_FORCE_GQA"  # read by transformers.integrations.sdpa_attention at each call


def group_attention() -> bool:
    """Take groups as they are for the rest of the process; returns whether that was set.

    It is not where the user has set it one way or the other, and where there is a GPU, for which transformers chooses.
    """
    if FORCE_GQA in os.environ:
        return False
    import torch

    if torch.accelerator.is_available():
        return False
    os.environ[FORCE_GQA] = "1"
    return True
