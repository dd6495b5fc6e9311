"""Log-likelihoods of given continuations of token ids, and whether greedy decoding would have given them.

A plain row per continuation, so that each is the model's own forward of its tokens; labels that many prompts share are
cheaper with `t2.policy.label_scores`. Not done here: tokenizing, choosing weights (the model's present ones are used).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from t2.models.language_model import LanguageModel
from t2.policy.log_probs import CHUNK_TOKENS
from t2.policy.packing import plain_rows
from t2.types import Completion

BATCH_TOKENS = 4096  # of one forward, padding included
Pair = tuple[Sequence[int], Sequence[int]]  # prompt, continuation


@torch.no_grad()
def score_continuations(
    lm: LanguageModel, pairs: Sequence[Pair], select: Callable[[int], None] = lambda rows: None
) -> list[tuple[float, bool]]:
    """Sum of the log-probs of each continuation after its prompt, and whether each of its tokens is the likeliest.

    `pairs` are token ids; the log-probs are of the untempered softmax over the whole vocabulary, in nats. `select` is
    called with the number of rows before each forward (`HFGenerator.applied`).

    Raises:
        ValueError: a prompt or a continuation without a token, or a pair longer than the context.
    """
    for prompt, continuation in pairs:
        if not prompt or not continuation:
            raise ValueError(
                f"A prompt and its continuation have at least one token each; got {len(prompt)} and "
                f"{len(continuation)}. Begin the prompt with the BOS token where there is no text."
            )
        if (length := len(prompt) + len(continuation) - 1) > lm.context_length:
            raise ValueError(f"Got {length} tokens to score; the context of {lm.source} is {lm.context_length}.")
    scored: dict[int, tuple[float, bool]] = {}
    for batch in _batches(pairs):
        select(len(batch))
        rows = [Completion(tuple(p), tuple(c), (0.0,) * len(c), "", "stop") for p, c in (pairs[i] for i in batch)]
        layout = plain_rows(rows, lm.pad_id, lm.device)
        states = lm.hidden_states(layout.input_ids, layout.attention_mask, layout.position_ids)
        hidden = states[layout.row, layout.column]  # (L, D)
        chosen, greedy = _scores(lm, hidden, layout.targets)
        lengths = list(layout.lengths)
        parts = zip(torch.split(chosen, lengths), torch.split(greedy, lengths), strict=True)
        scored |= {i: (float(logs.sum()), bool(best.all())) for i, (logs, best) in zip(batch, parts, strict=True)}
    return [scored[index] for index in range(len(pairs))]


def _scores(lm: LanguageModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs (L,) in float64 and whether they are the largest (L,), a chunk of logits at a time."""
    logs, best = [], []
    for start in range(0, len(targets), CHUNK_TOKENS):
        wanted = targets[start : start + CHUNK_TOKENS, None]
        logits = lm.logits(hidden[start : start + CHUNK_TOKENS])
        logs.append(torch.log_softmax(logits, dim=-1).gather(1, wanted).squeeze(1).double().cpu())
        best.append((logits.argmax(dim=-1, keepdim=True) == wanted).squeeze(1).cpu())
    return torch.cat(logs), torch.cat(best)


def _batches(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Indices of the pairs of each forward, longest first, so that little is padding."""
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    while order:
        size = max(1, BATCH_TOKENS // sum(map(len, pairs[order[0]])))
        yield order[:size]
        order = order[size:]
