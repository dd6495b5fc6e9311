"""Prompts of a batch that begin alike: their common prefix is computed once (a system message, an instruction, shots).

    prefix . . . . |  prompt 1  a1 a2 b1 b2      the keys and values of the prefix stand before those of every row;
                   |  prompt 2  c1 c2 d1         in training, gradients flow through them as through the rows

The prefix ends before the first image, since image placeholders are the same for all images, and leaves every prompt a
token of its own. `read_prefix` and `prefix_cache` serve forward passes over rows laid out by `t2.policy.packing`: their
cache never grows, so that activation checkpointing may compute a block again. `prefill` serves decoding, whose cache
has to grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from t2.models.image_inputs import RowImages
from t2.models.language_model import LanguageModel
from t2.types import LazyImage

SHARED_AT_LEAST = 8  # tokens: a shorter common beginning is not worth a forward of its own


@dataclass(frozen=True)
class Prefix:
    """Tokens that several prompts begin with, and their keys and values in each layer, (1, heads, P, D) each."""

    ids: tuple[int, ...]
    key_values: tuple[tuple[Tensor, Tensor], ...]


def common_prefix(prompts: Sequence[tuple[int, ...]], stops: Sequence[int] = ()) -> int:
    """The number of tokens that all prompts begin with; 0 below SHARED_AT_LEAST.

    Each prompt keeps at least one token of its own, and the prefix ends before the first of `stops`.
    """
    shortest = min(map(len, prompts))
    first, last = min(prompts), max(prompts)  # whatever these two share, all between them share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b or a in stops), shortest)
    length = min(same, shortest - 1)
    return length if length >= SHARED_AT_LEAST else 0


def read_prefix(lm: LanguageModel, ids: Sequence[int]) -> Prefix:
    """Compute the keys and values of a prefix with the adapter in its present mode; gradients flow through them."""
    if not ids:
        return Prefix((), ())
    cache = _Kept()
    input_ids = torch.tensor([ids], device=lm.device)
    positions = torch.arange(len(ids), device=lm.device)[None]
    lm.hidden_states(input_ids, torch.ones_like(input_ids), positions, past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), tuple(cache.kept[layer] for layer in sorted(cache.kept)))


def prefix_cache(prefix: Prefix, rows: int) -> dict[str, Any]:
    """Arguments of `LanguageModel.hidden_states` that let each of the given number of rows attend to the prefix."""
    if not prefix.ids:
        return {}
    cache = _Fixed([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix.key_values])
    return {"past_key_values": cache, "use_cache": True}


@dataclass(frozen=True)
class Prompts:
    """B prompts that have been read, and are to be continued."""

    cache: DynamicCache
    logits: Tensor  # (B, V) of each prompt's next token
    mask: Tensor  # (B, S) of the cache
    shift: Tensor  # (B,) from the number of tokens to the next position: an image may take fewer positions than tokens


class _Kept(DynamicCache):  # type: ignore[misc]  # transformers' classes have no types
    """A cache that holds the keys and values of one forward pass."""

    def __init__(self) -> None:
        super().__init__()  # without a config every layer keeps all tokens
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.kept[layer_idx] = (key_states, value_states)
        return key_states, value_states


class _Fixed(DynamicCache):  # type: ignore[misc]  # as above
    """A cache that puts the prefix before a layer's keys and values, and does not grow."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)


def prefill(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    states: Sequence[int],
    select: Callable[[Sequence[int]], None],
    images: Sequence[tuple[LazyImage, ...]] = (),
    cache: DynamicCache | None = None,
    *,
    new_tokens: int,
) -> Prompts:
    """Read B prompts into a cache, which are to be continued by `new_tokens` tokens at most.

    `states` (B,) are the indices of the adapter states of the prompts, and `select` is called with the prompts that
    come next. `images` (B,) are each prompt's images. `cache` is an empty one; None: of the kind the model asks for.
    """
    cache = DynamicCache(config=lm.model.config) if cache is None else cache
    alone = _slides(lm, prompts, new_tokens) or has_running_state(cache) or len(set(states)) == len(states)
    alone = alone or (any(images) and lm.places_images)
    shared = 0 if alone else common_prefix(prompts, lm.placeholder_ids)
    if shared:
        first_of = {state: index for index, state in reversed(list(enumerate(states)))}
        leaders = sorted(first_of.values())
        select(leaders)
        _read(lm, [prompts[index][:shared] for index in leaders], cache, 0)
        row_of = {states[index]: row for row, index in enumerate(leaders)}
        cache.reorder_cache(torch.tensor([row_of[state] for state in states], device=lm.index_device))
    select(range(len(prompts)))
    return _read(lm, [prompt[shared:] for prompt in prompts], cache, shared, images)


def has_running_state(cache: DynamicCache) -> bool:
    """Whether a layer keeps a state instead of tokens (Mamba, linear attention), which padding in between would reach.

    Padding before a prompt does not: the models set its inputs to 0.
    """
    return any(hasattr(layer, "recurrent_states") for layer in cache.layers)


def _slides(lm: LanguageModel, prompts: Sequence[tuple[int, ...]], new_tokens: int) -> bool:
    """Whether an attention window is shorter than a prompt with its continuation.

    Windows are counted in columns of the cache. Behind a shared prefix a shorter prompt has its padding between the
    prefix and its own tokens, where it counts; before a prompt it does not.
    """
    return lm.sliding_window is not None and max(map(len, prompts)) + new_tokens > lm.sliding_window


def _read(
    lm: LanguageModel,
    parts: Sequence[tuple[int, ...]],
    cache: DynamicCache,
    seen: int,
    images: RowImages = (),
) -> Prompts:
    """Continue `seen` cached tokens by the parts, left-padded."""
    width = max(map(len, parts))
    ids = torch.tensor([[lm.pad_id] * (width - len(part)) + list(part) for part in parts], device=lm.device)  # (n, S')
    lengths = torch.tensor([len(part) for part in parts], device=lm.device)
    positions = torch.arange(width, device=lm.device)
    own = (positions >= width - lengths[:, None]).long()  # (n, S')
    mask = torch.cat([own.new_ones(len(parts), seen), own], dim=1)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (own.cumsum(dim=1) - 1).clamp(min=0) + seen}
    inputs |= lm.image_inputs(images, ids, own, own.bool())
    logits = lm.next_logits(**inputs, past_key_values=cache, use_cache=True)
    # A prompt ends in text, whose positions are the same in all components of M-RoPE.
    last = inputs["position_ids"].view(-1, *ids.shape)[-1, :, -1]
    return Prompts(cache, logits, mask, last + 1 - mask.sum(dim=1))
