"""From completions to token log-probs: the only code that runs the model for training.

A row is a prompt followed by the sampled token ids, never text that is tokenized again; padding stands at the right,
where causal attention cannot see it. Logits exist only where a sampled token is predicted, and only for one chunk of
tokens at a time: the chunk is computed again in the backward pass, so no (N, T, V) tensor is ever alive. The reference
policy of a KL is the same network with the adapter off (no second model).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from t2.adapters.base import Adapter
from t2.models import LanguageModel
from t2.types import Completion, KLDirection, TokenLogProbs

CHUNK_TOKENS = 512  # (512, V) fp32 logits are 100 MB at V = 49k, 250 MB at V = 128k


def token_log_probs(
    lm: LanguageModel,
    completions: Sequence[Completion],
    *,
    temperature: float = 1.0,
    kl: KLDirection | None = None,
    adapter: Adapter | None = None,
) -> TokenLogProbs:
    """Log-prob, entropy and (where `kl` names a direction) divergence from the base, at every completion token.

    The model is run as it is worn at the call; gradients flow unless the caller forbids them. `kl` needs `adapter`.
    `temperature` divides the logits, as in sampling; the KL is between the untempered policies (paper Eq. 1).
    """
    rows = _Rows.of(completions, lm)
    hidden = rows.completion_states(lm)  # (L, D), L = all completion tokens
    base = None
    if kl is not None:
        assert adapter is not None, "a KL to the base needs the adapter that is switched off for it"
        with torch.no_grad(), adapter.disabled():
            base = rows.completion_states(lm)  # (L, D)
    parts = [
        _chunk(lm, hidden[span], rows.targets[span], None if base is None else base[span], temperature, kl)
        for span in rows.chunks()
    ]
    log_probs, entropy, divergence = (torch.cat(column) for column in zip(*parts, strict=True))  # (L,) each
    return TokenLogProbs(
        log_probs=rows.unflatten(log_probs),
        mask=rows.unflatten(torch.ones_like(log_probs, dtype=torch.bool)),
        entropy=rows.unflatten(entropy),
        kl=None if kl is None else rows.unflatten(divergence),
    )


@dataclass(frozen=True)
class _Rows:
    """Completions laid out for one forward pass."""

    input_ids: Tensor  # (N, S)
    row: Tensor  # (L,) where each completion token is predicted: row
    column: Tensor  # (L,) and column, one before the token's own
    targets: Tensor  # (L,)
    lengths: list[int]  # N, completion tokens; sums to L

    @classmethod
    def of(cls, completions: Sequence[Completion], lm: LanguageModel) -> _Rows:
        device = lm.device
        rows = [torch.tensor(c.prompt_ids + c.token_ids[:-1], device=device) for c in completions]
        lengths = [len(c.token_ids) for c in completions]
        first = [len(c.prompt_ids) - 1 for c in completions]
        return cls(
            input_ids=pad_sequence(rows, batch_first=True, padding_value=lm.pad_id),
            row=torch.arange(len(rows), device=device).repeat_interleave(torch.tensor(lengths, device=device)),
            column=torch.cat([torch.arange(f, f + n, device=device) for f, n in zip(first, lengths, strict=True)]),
            targets=torch.tensor([token for c in completions for token in c.token_ids], device=device),
            lengths=lengths,
        )

    def completion_states(self, lm: LanguageModel) -> Tensor:
        """Last hidden states where completion tokens are predicted, (L, D)."""
        everything = torch.ones_like(self.input_ids)  # padding at the right is hidden by causality: a mask costs time
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device).expand_as(self.input_ids)
        return lm.hidden_states(self.input_ids, everything, positions)[self.row, self.column]

    def chunks(self) -> Iterator[slice]:
        """Spans of at most CHUNK_TOKENS of the L tokens."""
        total = len(self.targets)
        yield from (slice(start, start + CHUNK_TOKENS) for start in range(0, total, CHUNK_TOKENS))

    def unflatten(self, flat: Tensor) -> Tensor:
        """(L,) -> (N, T), zeros (False) where a completion is shorter."""
        return pad_sequence(list(torch.split(flat, self.lengths)), batch_first=True)


def _chunk(
    lm: LanguageModel,
    hidden: Tensor,
    targets: Tensor,
    base: Tensor | None,
    temperature: float,
    kl: KLDirection | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and divergences (l,) of one chunk; computed again in the backward pass."""

    def compute(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = lm.logits(hidden)  # (l, V) fp32
        log_p = torch.log_softmax(logits / temperature, dim=-1)
        chosen = log_p.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(dim=-1)
        if base is None:
            return chosen, entropy, torch.zeros_like(entropy)
        if temperature != 1.0:
            log_p = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            log_q = torch.log_softmax(lm.logits(base), dim=-1)
        forward, reverse = (log_p, log_q) if kl == "policy_base" else (log_q, log_p)
        return chosen, entropy, (forward.exp() * (forward - reverse)).sum(dim=-1)

    if not hidden.requires_grad:
        return compute(hidden)
    return checkpoint(compute, hidden, use_reentrant=False)  # type: ignore[no-any-return]


def micro_batches(completions: Sequence[Completion], tokens: int) -> list[list[int]]:
    """Split indices so that a padded micro-batch holds at most `tokens` tokens (but at least one completion).

    Sorted by length, so that little is padding; the order of completions inside a loss does not matter.
    """
    sizes = [len(c.prompt_ids) + len(c.token_ids) for c in completions]
    batches: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if batches and sizes[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
