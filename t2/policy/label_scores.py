"""Log-likelihoods of a few labels as the beginning of the model's turn, in one prefill and without decoding.

    instruction | prompt 1  label a  label b       all labels of a prompt stand in one row under a tree mask, and the
                | prompt 2  label a  label b       instruction that all prompts begin with is computed once
                                                   (`t2.policy.packing`, `t2.policy.prefix`)

A label's score is the sum of the log-probs of its tokens. The token that would end the turn is not part of it, and
nothing is divided by the label's length: a calibration (`t2.adaptation.dispatch`) takes off what a label scores by
itself. A model that takes no tree mask, or a prompt beyond a sliding window, gets a plain row per prompt and label, and
the log says so; and so do a few prompts, whose shared rows would save less than finding out whether the model takes
them. Nothing here knows what a label means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.policy.prefix import common_prefix, read_prefix
from t2.policy.prompt_sharing import CHECK_TOKENS, exceeds_window, prompts_can_be_shared
from t2.policy.reference import continuation_ids
from t2.types import Completion, Example

log = logging.getLogger(__name__)
BATCH_TOKENS = 4096  # of one forward, the shared instruction and padding included: it bounds the keys and values
_WINDOW_LOGGED: WeakSet[PreTrainedModel] = WeakSet()  # so that it is said once a model


@torch.no_grad()
def score_labels(lm: LanguageModel, examples: Sequence[Example], labels: Sequence[str]) -> Tensor:
    """Log-likelihood of each label as the beginning of the completion of each example, (B, K) fp32 on the CPU.

    The adapter's present mode is used. Labels are tokenized by themselves, with the space that one may begin with:
    where a prompt ends in a response prefix, that is what follows there.

    Raises:
        ValueError: no label, one without a token, or a prompt that does not fit the model's context with its label.
    """
    label_ids = [_label_ids(lm, label) for label in labels]
    if not label_ids:
        raise ValueError("There are no labels to score. Give at least one.")
    reserve = max(map(len, label_ids))
    completions = [
        _completion(tuple(lm.encode(example, reserve=reserve)), example, label)
        for example in examples
        for label in label_ids
    ]
    if not completions:
        return torch.zeros(0, len(label_ids))
    prompts = completions[:: len(label_ids)]
    saved_tokens = (len(label_ids) - 1) * sum(len(prompt.prompt_ids) for prompt in prompts)
    shared = saved_tokens >= CHECK_TOKENS and _can_share(lm, completions)
    prefix = None
    if shared and len(prompts) > 1:
        common = common_prefix([prompt.prompt_ids for prompt in prompts], lm.placeholder_ids)
        prefix = read_prefix(lm, prompts[0].prompt_ids[:common])
    scores = torch.zeros(len(completions))
    for batch in _batches(prompts, label_ids, shared=shared):
        indices = [prompt * len(label_ids) + label for prompt in batch for label in range(len(label_ids))]
        token = token_log_probs(lm, [completions[i] for i in indices], shared=shared, prefix=prefix)
        scores[indices] = token.log_probs.sum(dim=1).cpu()
    return scores.view(len(examples), len(label_ids))


def _can_share(lm: LanguageModel, completions: Sequence[Completion]) -> bool:
    """Whether the labels of a prompt can share its row; where a sliding window forbids it, the log says so once."""
    if not prompts_can_be_shared(lm):
        return False
    too_long = exceeds_window(lm, completions)
    if too_long and lm.model not in _WINDOW_LOGGED:
        _WINDOW_LOGGED.add(lm.model)
        log.warning(
            "Labels are scored in plain rows: prompts are longer than the sliding window of %s.",
            type(lm.model).__name__,
        )
    return not too_long


def _batches(prompts: Sequence[Completion], label_ids: Sequence[Sequence[int]], *, shared: bool) -> Iterator[list[int]]:
    """Indices of the prompts of each forward, longest first, so that little is padding."""
    label_tokens = sum(len(label) - 1 for label in label_ids)
    rows = 1 if shared else len(label_ids)  # a prompt takes
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].prompt_ids))
    while order:
        tokens = rows * len(prompts[order[0]].prompt_ids) + label_tokens
        size = max(1, BATCH_TOKENS // tokens)
        yield order[:size]
        order = order[size:]


def _label_ids(lm: LanguageModel, label: str) -> tuple[int, ...]:
    ids = tuple(continuation_ids(lm, label)) if label.strip() else ()
    if not ids:
        raise ValueError(f"The label {label!r} has no token. Give it a name.")
    return ids


def _completion(prompt: tuple[int, ...], example: Example, label: tuple[int, ...]) -> Completion:
    return Completion(prompt, label, (0.0,) * len(label), "", "stop", example.images)
