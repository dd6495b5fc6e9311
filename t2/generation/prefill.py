"""Reading prompts before the first new token: each once for its samples, and what all of them begin with once.

    shared prefix | . . prompt 1      a system message or an instruction runs once for each distinct state that rows
                  | prompt 2 ....     wear; its keys and values are then given to all rows, which go on left-padded

The computation is that of reading every prompt by itself, padding included. What is shared ends before the first
picture: placeholders are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from t2.images import LazyImage
from t2.language_model import LanguageModel
from t2.prefix import common_prefix


def prefill(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    samples: int,
    states: Sequence[int],
    wear: Callable[[Sequence[int]], None],
    images: Sequence[tuple[LazyImage, ...]] | None = None,
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Cache, last logits (N, V) and mask (N, S) of B prompts, each repeated for its G samples.

    `states` says which of several states each prompt is read under (B,), and `wear` is told which prompts come next.
    `images` are each prompt's pictures (B,).
    """
    cache = DynamicCache(config=lm.model.config)
    shared = (
        0 if _slides(lm, prompts) or len(set(states)) == len(states) else common_prefix(prompts, lm.placeholder_ids)
    )
    if shared:
        first_of = {state: place for place, state in reversed(list(enumerate(states)))}
        leaders = sorted(first_of.values())
        wear(leaders)
        _read(lm, [prompts[place][:shared] for place in leaders], cache, 0)
        at = {states[place]: number for number, place in enumerate(leaders)}
        cache.batch_select_indices(torch.tensor([at[state] for state in states], device=lm.device))
    wear(range(len(prompts)))
    pictures = [picture for of_one in images or () for picture in of_one]
    logits, mask = _read(lm, [prompt[shared:] for prompt in prompts], cache, shared, pictures)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
        logits, mask = (part.repeat_interleave(samples, dim=0) for part in (logits, mask))
    return cache, logits, mask


def _slides(lm: LanguageModel, prompts: Sequence[tuple[int, ...]]) -> bool:
    """Whether a sliding window is shorter than a prompt: its cache then forgets, counted with the padding."""
    return lm.sliding_window is not None and max(map(len, prompts)) > lm.sliding_window


def _read(
    lm: LanguageModel,
    parts: Sequence[tuple[int, ...]],
    cache: DynamicCache,
    seen: int,
    images: Sequence[LazyImage] = (),
) -> tuple[Tensor, Tensor]:
    """Continue `seen` cached tokens by the parts, left-padded: the last logits (n, V) and the whole mask (n, S)."""
    width = max(map(len, parts))
    ids = torch.tensor([[lm.pad_id] * (width - len(part)) + list(part) for part in parts], device=lm.device)  # (n, S')
    lengths = torch.tensor([len(part) for part in parts], device=lm.device)
    places = torch.arange(width, device=lm.device)
    own = (places >= width - lengths[:, None]).long()  # (n, S')
    mask = torch.cat([own.new_ones(len(parts), seen), own], dim=1)
    logits = lm.next_logits(
        images,
        input_ids=ids,
        attention_mask=mask,
        position_ids=(own.cumsum(dim=1) - 1).clamp(min=0) + seen,
        past_key_values=cache,
        use_cache=True,
    )
    return logits, mask
