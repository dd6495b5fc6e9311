"""The cache of a decode loop whose rows have a prompt each: keys and values with room for the tokens to come.

transformers' `DynamicLayer` puts all keys and values into new memory at each step. Here each step writes its own behind
what is there, and attention gets a view of the same numbers: two thirds of a layer's step (LOG.md).

What gains are layers that attend to all tokens, and those of a sliding window into which prompts and completions fit
(`t2.policy.prompt_cache.keeps_all`). Not done here: samples of one prompt (`t2.policy.prompt_cache`), cropping,
resetting, offloading, paged caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer

from t2.policy.prompt_cache import ROOM, keeps_all


def leave_room(cache: DynamicCache, new_tokens: int) -> None:
    """Let the layers of a cache, where they can, be written to in place.

    Its rows are prompts that have been read, and are continued by at most `new_tokens` tokens.
    """
    for number, layer in enumerate(cache.layers):
        if keeps_all(layer, new_tokens) and layer.is_initialized:
            cache.layers[number] = GrowingLayer(layer)


class GrowingLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers' classes have no types
    """A layer of n rows, (n, H, t, D) in memory for at least t tokens."""

    def __init__(self, layer: DynamicLayer) -> None:
        """From a layer whose rows have been read; its tensors are let go with the first token."""
        self.is_initialized, self.dtype, self.device = True, layer.dtype, layer.device
        self._held: list[Tensor] = [layer.keys, layer.values]  # (n, H, at least t, D) each
        self._tokens: int = layer.get_seq_length()

    @property
    def keys(self) -> Tensor:
        """Those of all tokens, a view (n, H, t, D)."""
        return self._held[0][..., : self._tokens, :]

    @property
    def values(self) -> Tensor:
        """Those of all tokens, a view (n, H, t, D)."""
        return self._held[1][..., : self._tokens, :]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the prompts have been read."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of t' tokens (n, H, t', D) and return all of them."""
        end = self._tokens + key_states.shape[-2]
        for part, new in enumerate((key_states, value_states)):
            held = self._held[part]
            if end > held.shape[-2]:
                more = new.new_empty(*new.shape[:-2], end - held.shape[-2] + ROOM - 1, new.shape[-1])
                held = self._held[part] = torch.cat([held, more], dim=-2)
            held[..., self._tokens : end, :] = new
        self._tokens = end
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i be what row `beam_idx[i]` was."""
        self._held = [held.index_select(0, beam_idx.to(self.device)) for held in self._held]

    def get_seq_length(self) -> int:
        """Tokens of a row."""
        return self._tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that so many new ones attend to, themselves included, and how many were dropped before them."""
        return self._tokens + query_length, 0

    def get_max_length(self) -> int:
        """There is none."""
        return -1
