"""Whether the completions of one prompt can share its computation, on a given model.

The check compares shared rows (`t2.policy.packing`, `t2.policy.prefix`) with plain ones on random tokens, once a model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, LazyImage, PixelImage

log = logging.getLogger(__name__)
CHECK_PREFIX, CHECK_PROMPTS, CHECK_SAMPLES = 32, (5, 3, 9), (4, 1, 7)  # lengths in the self-check
_CHECKED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()  # so that it is found out and said once


def exceeds_window(lm: LanguageModel, completions: Sequence[Completion]) -> bool:
    """Whether a sliding attention window is shorter than a completion with its prompt.

    Plain rows would then forget the prompt's beginning, and shared rows under their own mask would not.
    """
    longest = max(len(c.prompt_ids) + len(c.token_ids) for c in completions)
    return lm.sliding_window is not None and longest > lm.sliding_window


def prompts_can_be_shared(lm: LanguageModel) -> bool:
    """Whether shared rows give the log-probs of plain rows on this model; where not, the log says so once."""
    if lm.model not in _CHECKED:
        _CHECKED[lm.model] = _check(lm)
    return _CHECKED[lm.model]


@torch.no_grad()
def _check(lm: LanguageModel) -> bool:
    """Compare both on random tokens after a common prefix.

    A model whose attention takes no tree mask, or none with cached keys and values before it, fails.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]

    def draw(count: int) -> tuple[int, ...]:
        ids = torch.randint(vocabulary, (count,), generator=generator).tolist()
        return tuple(0 if token in lm.placeholder_ids else token for token in ids)

    longest = CHECK_PREFIX + max(CHECK_PROMPTS) + max(CHECK_SAMPLES)
    fits = lm.sliding_window is None or longest <= lm.sliding_window
    prefix = draw(CHECK_PREFIX) if fits else ()  # plain rows would forget it, which is no fault of the model
    prompts: list[tuple[tuple[int, ...], tuple[LazyImage, ...]]] = [(draw(length), ()) for length in CHECK_PROMPTS]
    if lm.processor is not None:
        seen = Example("Which?", images=(PixelImage(bytes(range(64)), (8, 8)),))
        prompts.append((tuple(lm.encode(seen)), seen.images))
    probe = [
        Completion(prefix + prompt, draw(length), (0.0,) * length, "", "stop", images)
        for prompt, images in prompts
        for length in CHECK_SAMPLES
    ]
    plain = token_log_probs(lm, probe).log_probs
    try:
        together = token_log_probs(lm, probe, shared=True).log_probs
    except (ValueError, TypeError, RuntimeError, IndexError) as error:  # what models raise at a 4-D mask
        log.warning("Prompts are not shared: %s takes no tree mask (%s).", type(lm.model).__name__, error)
        return False
    difference = float((plain - together).abs().max())
    allowed = (1e-3 if lm.dtype == torch.float32 else 0.1) * max(1.0, float(plain.abs().max()) / 10)
    if difference > allowed:
        log.warning(
            "Prompts are not shared: %s gives log-probs %.2g apart from plain rows (allowed: %.2g).",
            type(lm.model).__name__,
            difference,
            allowed,
        )
    return difference <= allowed
