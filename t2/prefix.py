"""What the prompts of a batch begin with, computed once: a system message, an instruction, solved examples.

    prefix . . . . |  prompt 1  a1 a2 b1 b2      keys and values of the prefix stand before those of every row;
                   |  prompt 2  c1 c2 d1         gradients go through them as through the rows

It ends before the first picture, since placeholders are the same for all of them, and leaves every prompt a token of
its own. The cache that carries it never grows, so that a block may be computed again in the backward pass; decoding,
where one has to grow, is `t2.generation.prefill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from t2.language_model import LanguageModel

SHARED_AT_LEAST = 8  # tokens: what prompts have in common below that is not worth a forward of its own

KeyValues = list[tuple[Tensor, Tensor]]  # of each layer, (1, heads, P, D) each


def common_prefix(prompts: Sequence[tuple[int, ...]], stops: Sequence[int] = ()) -> int:
    """How many tokens all prompts begin with, leaving each one of its own at least; 0 below SHARED_AT_LEAST.

    None of `stops` is among them.
    """
    shortest = min(map(len, prompts))
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b or a in stops), shortest)
    length = min(same, shortest - 1)
    return length if length >= SHARED_AT_LEAST else 0


def key_values(lm: LanguageModel, ids: Sequence[int]) -> KeyValues:
    """Keys and values of a prefix as the model is worn at the call, none of an empty one."""
    if not ids:
        return []
    cache = _Kept()
    input_ids = torch.tensor([ids], device=lm.device)
    positions = torch.arange(len(ids), device=lm.device)[None]
    lm.hidden_states(input_ids, torch.ones_like(input_ids), positions, past_key_values=cache, use_cache=True)
    return [cache.kept[layer] for layer in sorted(cache.kept)]


def standing_before(prefix: KeyValues, rows: int) -> dict[str, Any]:
    """What `LanguageModel.hidden_states` takes, beside rows laid out behind it, to see a prefix from every row."""
    if not prefix:
        return {}
    cache = _Fixed([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix])
    return {"past_key_values": cache, "use_cache": True}


class _Kept(DynamicCache):  # type: ignore[misc]  # transformers' classes have no types
    """Keeps the keys and values of one forward, or of the same one computed again."""

    def __init__(self) -> None:
        super().__init__()  # without a config every layer keeps all tokens
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.kept[layer_idx] = (key_states, value_states)
        return key_states, value_states


class _Fixed(DynamicCache):  # type: ignore[misc]  # as above
    """Puts the prefix before what a layer has computed, and stays as it is."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)
