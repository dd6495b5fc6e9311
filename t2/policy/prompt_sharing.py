"""Whether the completions of one prompt can share its computation, on a given model.

Decided once a model by what its numbers depend on, on random tokens in shared rows (`t2.policy.packing`,
`t2.policy.prefix`): a token of a sibling must change nothing, and the prompt and the positions must change something.
The runs that are compared have the same shapes, and so the same kernels, so that rounding is the same in both and
half precision decides as float32 does. How far shared rows are from plain ones is logged; in half precision that is
rounding, which may be as large as a small fault.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from t2.models.language_model import LanguageModel
from t2.models.precision import NonFiniteError
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import shared_rows
from t2.policy.prefix import has_running_state
from t2.types import Completion, Example, LazyImage, PixelImage

log = logging.getLogger(__name__)
TREE_MASK_ATTENTION = ("sdpa", "eager")  # others take no 4-D mask, and on a GPU fail where no `except` helps
CHECK_PREFIX, CHECK_PROMPTS, CHECK_SAMPLES = 32, (5, 3, 9), (4, 1, 7)  # lengths in the self-check
CHECK_TOKENS = 1067  # that the self-check reads, padding included: to save fewer it is not worth its time
SHIFT = 3  # positions by which the check moves completions
_CHECKED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()  # so that it is found out and said once


def exceeds_window(lm: LanguageModel, completions: Sequence[Completion]) -> bool:
    """Whether a sliding attention window is shorter than a completion with its prompt.

    Plain rows would then forget the prompt's beginning, and shared rows under their own mask would not.
    """
    longest = max(len(c.prompt_ids) + len(c.token_ids) for c in completions)
    return lm.sliding_window is not None and longest > lm.sliding_window


def prompts_can_be_shared(lm: LanguageModel) -> bool:
    """Whether shared rows compute what plain rows do on this model; where not, the log says why, once."""
    if lm.model not in _CHECKED:
        fault = why_not_shared(lm)
        if fault is not None:
            log.warning("Prompts are not shared: %s %s.", type(lm.model).__name__, fault)
        _CHECKED[lm.model] = fault is None
    return _CHECKED[lm.model]


@torch.no_grad()
def why_not_shared(lm: LanguageModel) -> str | None:
    """What this model does wrong with shared rows, after its name; None where nothing is. Nothing is remembered."""
    attention = lm.model.config.get_text_config()._attn_implementation
    if attention not in TREE_MASK_ATTENTION:
        return f"attends by {attention!r}, and only {' and '.join(TREE_MASK_ATTENTION)} take a tree mask"
    if has_running_state(DynamicCache(config=lm.model.config)):
        return "keeps a running state, through which a row goes in one order, and not as a tree"
    if lm.places_images:
        return "has positions or a mask of its own for images, which know nothing of a tree"
    probe = _probe(lm)
    try:
        shared = token_log_probs(lm, probe, shared=True).log_probs
        fault = _structural_fault(lm, probe, shared)
    except (torch.OutOfMemoryError, NonFiniteError):  # which say nothing of the architecture
        raise
    except (ValueError, TypeError, RuntimeError, IndexError) as error:  # what models raise at a 4-D mask
        return f"takes no tree mask ({error})"
    if fault is not None:
        return fault
    difference = (token_log_probs(lm, probe).log_probs - shared).abs()
    largest, allowed = float(difference.max()), 1e-3 * max(1.0, float(shared.abs().max()) / 10)
    if lm.dtype in (torch.float32, torch.float64) and largest > allowed:  # a hundred times rounding
        return f"gives log-probs {largest:.2g} apart from plain rows (allowed: {allowed:.2g})"
    log.info(
        "Prompts are shared: log-probs of random tokens are %.2g apart from plain rows (mean %.2g), rounding of %s.",
        largest,
        float(difference.sum()) / sum(len(one.token_ids) for one in probe),
        str(lm.dtype).removeprefix("torch."),
    )
    return None


def _probe(lm: LanguageModel) -> list[Completion]:
    """Completions of random tokens: prompts after a common prefix, the last one with an image where models take one."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]

    def draw(count: int) -> tuple[int, ...]:
        ids = torch.randint(vocabulary, (count,), generator=generator).tolist()
        return tuple(0 if token in lm.placeholder_ids else token for token in ids)

    longest = CHECK_PREFIX + max(CHECK_PROMPTS) + max(CHECK_SAMPLES)
    fits = lm.sliding_window is None or longest <= lm.sliding_window
    prefix = draw(CHECK_PREFIX) if fits else ()  # plain rows would forget it, which is no fault of the model
    prompts: list[tuple[tuple[int, ...], tuple[LazyImage, ...]]] = [(prefix + draw(n), ()) for n in CHECK_PROMPTS]
    if lm.processor is not None:
        seen = Example("Which?", images=(PixelImage(bytes(range(64)), (8, 8)),))
        prompts.append((tuple(lm.encode(seen)), seen.images))
    return [
        Completion(prompt, draw(length), (0.0,) * length, "", "stop", images)
        for prompt, images in prompts
        for length in CHECK_SAMPLES
    ]


def _structural_fault(lm: LanguageModel, probe: Sequence[Completion], before: Tensor) -> str | None:
    """Change tokens, images and positions, one kind at a time, and look at what has changed from `before` (N, T)."""
    one, two = [token for token in range(len(lm.placeholder_ids) + 2) if token not in lm.placeholder_ids][:2]

    def changed(ids: tuple[int, ...], at: int) -> tuple[int, ...]:
        return (*ids[:at], two if ids[at] == one else one, *ids[at + 1 :])

    def effect(altered: Sequence[Completion]) -> Tensor:
        return (token_log_probs(lm, altered, shared=True).log_probs - before).abs().amax(dim=1)  # (N,)

    begun = effect([replace(c, prompt_ids=changed(c.prompt_ids, 0)) for c in probe])
    ended = effect([replace(c, prompt_ids=changed(c.prompt_ids, len(c.prompt_ids) - 1)) for c in probe])
    for where, seen in (("beginning", begun), ("end", ended)):
        if float(seen.min()) == 0.0:
            return f"does not see the {where} of the prompt in shared rows"
    if lm.processor is not None:
        with_image = torch.tensor([bool(c.images) for c in probe], device=before.device)
        inverted = PixelImage(bytes(range(64))[::-1], (8, 8))
        if float(effect([replace(c, images=(inverted,)) if c.images else c for c in probe])[with_image].min()) == 0.0:
            return "does not see the prompt's image in shared rows"
    first = [n for n in range(len(probe)) if n % len(CHECK_SAMPLES) == 0]  # before the others in its row
    leak = effect([replace(c, token_ids=changed(c.token_ids, 0)) if n in first else c for n, c in enumerate(probe)])
    others = float(leak[[n for n in range(len(probe)) if n not in first]].max())
    exact = lm.dtype not in (torch.float32, torch.float64)  # there a mixture of experts may round differently, by 1e-6
    if others > (0.0 if exact else 1e-4 * float(ended.min())):
        return f"lets completions of a prompt see each other under a tree mask (by {others:.2g} in a log-prob)"
    return None if _sees_positions(lm, probe) else "ignores the positions of tokens, which shared rows restart"


def _sees_positions(lm: LanguageModel, probe: Sequence[Completion]) -> bool:
    """Whether hidden states change where completions are moved away from their prompt."""
    layout = shared_rows(probe, lm.pad_id, lm.device)
    length = torch.tensor([len(probe[n].prompt_ids) for n in range(0, len(probe), len(CHECK_SAMPLES))])
    own = layout.position_ids >= length.to(lm.device)[:, None]  # (N', S)
    states = [
        lm.hidden_states(layout.input_ids, layout.attention_mask, positions, layout.images)
        for positions in (layout.position_ids, layout.position_ids + SHIFT * own)
    ]
    return bool((states[0] != states[1]).any(dim=-1)[own].all())
