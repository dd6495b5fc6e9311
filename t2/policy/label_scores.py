"""How likely a model finds each of a few labels as the beginning of its answer, in one prefill and without decoding.

    instruction | prompt 1  label a  label b  .        the instruction common to all prompts runs once, its keys and
                | prompt 2  label a  label b  .        values are shared; labels are branches of a tree mask behind
                | prompt 3 - - -  label a  label b     each prompt (`t2.policy.packing`), of similar length in one batch

A label's score is the sum of the log-probs of its tokens: what follows it (the end of the turn) is not asked for, and
nothing is divided by its length, since what a label has by itself is for a calibration to take off. Logits exist only
where a label's token is predicted. An architecture that takes no tree mask, or forgets behind a sliding window, gets a
plain row per prompt and label, which is said in the log. Nothing here knows what a label means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.models.language_model import LanguageModel
from t2.policy.log_probs import exceeds_window, prompts_can_be_shared, token_log_probs
from t2.policy.packing import micro_batches, shared_rows, with_prefix
from t2.policy.prefix import KeyValues, common_prefix, key_values, prefix_cache
from t2.types import Completion, Example, LazyImage

log = logging.getLogger(__name__)
BATCH_TOKENS = 4096  # of one forward, the shared instruction and padding included: what bounds the keys and values
LOGIT_ROWS = 512  # (512, V) fp32 logits are 100 MB at V = 49k, 250 MB at V = 128k


class Prompt(NamedTuple):
    """What stands before a label."""

    ids: tuple[int, ...]
    images: tuple[LazyImage, ...]


# What was found out about a model, so that it is found out and said once; it goes when the model goes.
_SHAREABLE: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
_WINDOW_LOGGED: WeakSet[PreTrainedModel] = WeakSet()


@torch.no_grad()
def score_labels(lm: LanguageModel, examples: Sequence[Example], labels: Sequence[str]) -> Tensor:
    """Log-likelihood of each label as the beginning of the answer to each example, (B, K) fp32 on the CPU.

    The model is run with its adapter as it is at the call. Labels are tokenized by themselves, with the space that one
    may begin with: where a prompt is prefilled, it is what follows there.

    Raises:
        ValueError: no label, one without a token, or a prompt that does not fit the model's context with its label.
    """
    answers = [_label_ids(lm, label) for label in labels]
    if not answers:
        raise ValueError("There are no labels to score. Give at least one.")
    reserve = max(map(len, answers))
    prompts = [Prompt(tuple(lm.encode(example, reserve=reserve)), example.images) for example in examples]
    if not prompts:
        return torch.zeros(0, len(answers))
    if not _can_share(lm, [_completion(prompt, answer) for prompt in prompts for answer in answers]):
        return _score_plain(lm, prompts, answers)
    shared = common_prefix([prompt.ids for prompt in prompts], lm.placeholder_ids) if len(prompts) > 1 else 0
    prefix = key_values(lm, prompts[0].ids[:shared])
    tails = [Prompt(prompt.ids[shared:], prompt.images) for prompt in prompts]
    scores = torch.zeros(len(prompts), len(answers))
    for batch in _batches([len(tail.ids) for tail in tails], shared, answers):
        scores[batch] = _score_batch(lm, prefix, shared, [tails[i] for i in batch], answers).cpu()
    return scores


def _score_batch(
    lm: LanguageModel,
    prefix: KeyValues,
    shared: int,
    tails: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Scores (b, K) of prompts that go on with `tails` behind a prefix of `shared` tokens."""
    # Neighbors with the same tail come into one row.
    branches = [_completion(tail, answer) for tail in tails for answer in answers]
    layout = with_prefix(shared_rows(branches, lm.pad_id, lm.device), shared)
    rows, width = layout.input_ids.shape
    hidden = lm.hidden_states(
        layout.input_ids,
        layout.attention_mask,
        layout.position_ids,
        layout.images,
        **prefix_cache(prefix, rows),
    )  # (rows, width, D)
    # All first tokens of a prompt's labels are predicted at one place: the head runs once there.
    places, where = torch.unique(layout.row * width + layout.column, return_inverse=True)  # (U,), (L,)
    log_probs = torch.log_softmax(lm.logits(hidden.flatten(0, 1)[places]), dim=-1)  # (U, V)
    tokens = log_probs[where, layout.targets].view(len(tails), -1)  # (b, all labels' tokens)
    by_label = torch.split(tokens, [len(answer) for answer in answers], dim=1)
    return torch.stack([part.sum(dim=1) for part in by_label], dim=1)


def _score_plain(lm: LanguageModel, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]]) -> Tensor:
    """The same scores (B, K) from a row per prompt and label."""
    completions = [_completion(prompt, answer) for prompt in prompts for answer in answers]
    scores = torch.zeros(len(completions))
    for batch in micro_batches(completions, BATCH_TOKENS, shared=False):
        scores[batch] = token_log_probs(lm, [completions[i] for i in batch]).log_probs.sum(dim=1).cpu()
    return scores.view(len(prompts), len(answers))


def _can_share(lm: LanguageModel, completions: Sequence[Completion]) -> bool:
    """Whether this model gives with shared rows what it gives with plain ones; where not, the log says so once."""
    if lm.model not in _SHAREABLE:
        _SHAREABLE[lm.model] = prompts_can_be_shared(lm)
    if not _SHAREABLE[lm.model]:
        return False
    too_long = exceeds_window(lm, completions)
    if too_long and lm.model not in _WINDOW_LOGGED:
        _WINDOW_LOGGED.add(lm.model)
        log.warning(
            "Labels are scored in plain rows: prompts are longer than the sliding window of %s.",
            type(lm.model).__name__,
        )
    return not too_long


def _batches(lengths: Sequence[int], shared: int, answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of tails, longest first, so that little is padding; within the bounds, but at least one."""
    label_tokens = sum(len(answer) - 1 for answer in answers)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        tokens = shared + lengths[order[0]] + label_tokens
        size = max(1, min(BATCH_TOKENS // tokens, LOGIT_ROWS // (label_tokens + 1)))
        yield order[:size]
        order = order[size:]


def _label_ids(lm: LanguageModel, label: str) -> tuple[int, ...]:
    ids = tuple(lm.tokenizer(label, add_special_tokens=False)["input_ids"]) if label.strip() else ()
    if not ids:
        raise ValueError(f"The label {label!r} has no token. Give it a name.")
    return ids


def _completion(prompt: Prompt, answer: Sequence[int]) -> Completion:
    return Completion(prompt.ids, tuple(answer), (0.0,) * len(answer), "", "stop", prompt.images)
