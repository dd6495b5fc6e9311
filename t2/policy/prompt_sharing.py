"""Whether the completions of one prompt can share its computation, on a given model.

The check asks shared rows (`t2.policy.packing`, `t2.policy.prefix`) for what they must do, on random tokens and once a
model: a token of a sibling changes nothing, a token of the prompt changes every completion, and what is left between
shared and plain rows is small against that change. In half precision single log-probs of equal computations differ by
0.1 to 0.8, so that no bound on the largest difference would tell a wrong mask from rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, LazyImage, PixelImage

log = logging.getLogger(__name__)
CHECK_PREFIX, CHECK_PROMPTS, CHECK_SAMPLES = 32, (5, 3, 9), (4, 1, 7)  # lengths in the self-check
ATTENTIONS = ("sdpa", "eager")  # that take a tree mask; flash attention would index out of bounds, and on CUDA for good
SIBLING_SHARE = 1e-3  # of a prompt token's effect that a sibling's token may have: the same kernels give the same bits
NOISE_SHARE = 0.25  # of a prompt token's mean effect, up to which shared and plain rows count as equal
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
    """Compare the log-probs of shared rows with those after a change of a sibling, and of a prompt."""
    name = type(lm.model).__name__
    attention = lm.model.config.get_text_config()._attn_implementation
    if attention not in ATTENTIONS:
        log.warning("Prompts are not shared: the attention of %s is %s, which takes no tree mask.", name, attention)
        return False
    probe = _probe(lm)
    plain = token_log_probs(lm, probe)
    try:
        shared = token_log_probs(lm, probe, shared=True).log_probs
    except (ValueError, TypeError, RuntimeError, IndexError) as error:  # what models raise at a 4-D mask
        log.warning("Prompts are not shared: %s takes no tree mask (%s).", name, error)
        return False
    first = range(0, len(probe), len(CHECK_SAMPLES))  # the first completion of each prompt

    def change(completion: Callable[[int, Completion], Completion]) -> Tensor:
        changed = [completion(number, one) for number, one in enumerate(probe)]
        return (token_log_probs(lm, changed, shared=True).log_probs - shared).abs()  # (N, T)

    siblings = change(lambda n, one: replace(one, token_ids=_head(lm, one.token_ids)) if n in first else one)
    moved = change(lambda n, one: replace(one, prompt_ids=_tail(lm, one.prompt_ids)))
    count = plain.mask.sum(dim=1)  # tokens of each completion
    effect = float((moved.sum(dim=1) / count).min())  # of the completion that feels its prompt least
    leak = float(siblings[[n for n in range(len(probe)) if n not in first]].max())
    noise = (shared - plain.log_probs).abs()
    mean_noise = float(noise.sum() / count.sum())
    log.info("Shared and plain rows of %s differ by %.2g nats a token, at most %.2g.", name, mean_noise, noise.max())
    if leak <= SIBLING_SHARE * effect and mean_noise <= NOISE_SHARE * effect:
        return True
    log.warning(
        "Prompts are not shared: in shared rows of %s a token of a sibling changes log-probs by up to %.2g, and of the "
        "prompt by %.2g in the mean; plain rows differ by %.2g.", name, leak, effect, mean_noise,
    )  # fmt: skip
    return False


def _probe(lm: LanguageModel) -> list[Completion]:
    """Completions of random prompts that begin alike, and of one with an image where the model takes images."""
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
    return [
        Completion(prefix + prompt, draw(length), (0.0,) * length, "", "stop", images)
        for prompt, images in prompts
        for length in CHECK_SAMPLES
    ]


def _head(lm: LanguageModel, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids with another first one; a completion's last is never read."""
    return (_other(lm, ids[0]), *ids[1:])


def _tail(lm: LanguageModel, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids with another last one."""
    return (*ids[:-1], _other(lm, ids[-1]))


def _other(lm: LanguageModel, token: int) -> int:
    """Another token, which is no placeholder of an image."""
    return next(other for other in range(len(lm.placeholder_ids) + 2) if other not in (*lm.placeholder_ids, token))
