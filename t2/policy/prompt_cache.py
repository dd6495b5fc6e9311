"""The cache of a decode loop in which a prompt's keys and values are held once for all its samples.

    rows          a1  a2  b1  a3        prompt_of (n,) = 0 0 1 0
    prompts       A           B         (P, H, S, D), as they were read
    own           x   x   x   x         (n, H, t, D), what each row has generated

A layer whose keys and values are asked for is put together for that forward pass, prompt and own, and let go with it:
attention sees the tensors that `DynamicLayer` would give it, bit for bit, and a layer holds P S + n t tokens instead of
n (S + t). Putting it together takes the time of the copy that `DynamicLayer` makes at each step anyway; rows that part
or are dropped copy only what is their own.

What gains: layers that attend to all tokens (`DynamicLayer`, also of latent attention, which transformers caches as
heads), and those of a sliding window into which prompts and completions fit. What does not, and is copied for each row
as before: a shorter window, running states and convolutions (Mamba, linear attention), layers with keys and states
(Falcon-H1), and the layers that single models bring. Not done here: cropping, resetting, offloading, paged caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 32  # tokens by which the rows' own keys and values grow, so that they are not copied at each step


def share_prompts(cache: DynamicCache, new_tokens: int) -> None:
    """Let the layers of a cache, where they can, keep each of its rows once for all rows that are made of it.

    Its rows are prompts that have been read, and are continued by at most `new_tokens` tokens.
    """
    for number, layer in enumerate(cache.layers):
        if keeps_all(layer, new_tokens) and layer.is_initialized:
            cache.layers[number] = SharedPromptLayer(layer)


def keeps_all(layer: CacheLayerMixin, new_tokens: int) -> bool:
    """Whether a layer is one of keys and values alone, and will have dropped none of them."""
    if type(layer) is DynamicSlidingWindowLayer:
        return bool(layer.cumulative_length + new_tokens <= layer.sliding_window)
    return type(layer) is DynamicLayer  # a subclass keeps something else besides


class SharedPromptLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers' classes have no types
    """A layer of P prompts and n rows that continue them."""

    def __init__(self, layer: DynamicLayer) -> None:
        """From a layer of which each row is a prompt, (P, H, S, D); its tensors are taken over."""
        self.is_initialized, self.dtype, self.device = True, layer.dtype, layer.device
        self._keys, self._values = _States(layer.keys), _States(layer.values)
        self._prompt_of = torch.arange(len(layer.keys), device=layer.device)  # (n,)
        self._read: int = layer.get_seq_length()  # tokens of each prompt, S
        self._generated = 0  # tokens of each row, t

    @property
    def keys(self) -> Tensor:
        """Those of every row, (n, H, S + t, D), put together anew each time."""
        return self._keys.of_rows(self._prompt_of, self._generated)

    @property
    def values(self) -> Tensor:
        """Those of every row, (n, H, S + t, D), put together anew each time."""
        return self._values.of_rows(self._prompt_of, self._generated)

    def stored_numbers(self) -> int:
        """How many numbers are held: of P prompts, and of n rows for t tokens rounded up to ROOM."""
        return sum(part.prompts.numel() + part.own.numel() for part in (self._keys, self._values))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the prompts have been read."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of t' tokens (n, H, t', D) and return all of them."""
        self._keys.append(key_states, self._generated)
        self._values.append(value_states, self._generated)
        self._generated += key_states.shape[-2]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i be what row `beam_idx[i]` was; prompts that no row continues are let go."""
        index = beam_idx.to(self.device)
        kept, self._prompt_of = torch.unique(self._prompt_of[index], return_inverse=True)
        self._keys.select(kept, index)
        self._values.select(kept, index)

    def get_seq_length(self) -> int:
        """Tokens of a row."""
        return self._read + self._generated

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that so many new ones attend to, themselves included, and how many were dropped before them."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """There is none."""
        return -1


class _States:
    """The keys or the values of a layer."""

    def __init__(self, prompts: Tensor) -> None:
        self.prompts = prompts  # (P, H, S, D)
        self.own = prompts.new_empty(*prompts.shape[:-2], 0, prompts.shape[-1])  # (n, H, at least t, D)

    def append(self, new: Tensor, used: int) -> None:
        """Put new states (n, H, t', D) behind the `used` ones."""
        end, room = used + new.shape[-2], self.own.shape[-2]
        if end > room:
            more = new.new_empty(*new.shape[:-2], -(-end // ROOM) * ROOM - room, new.shape[-1])
            self.own = torch.cat([self.own, more], dim=-2)
        self.own[..., used:end, :] = new

    def of_rows(self, prompt_of: Tensor, used: int) -> Tensor:
        """States of every row, (n, H, S + used, D), each written once (`torch.cat` of a gather: prompts twice)."""
        *heads, read, width = self.prompts.shape[1:]
        whole = self.prompts.new_empty(len(prompt_of), *heads, read + used, width)
        torch.index_select(self.prompts, 0, prompt_of, out=whole[..., :read, :])
        whole[..., read:, :] = self.own[..., :used, :]
        return whole

    def select(self, kept: Tensor, rows: Tensor) -> None:
        """Keep these prompts and rows."""
        if len(kept) < len(self.prompts):
            self.prompts = self.prompts.index_select(0, kept)
        self.own = self.own.index_select(0, rows)
