"""Log-probs, entropies and KL divergences of completion tokens: the only forward passes of training.

Rows are made of the sampled token ids: nothing is tokenized again. Where the architecture allows it, the completions of
one prompt share its computation (`t2.policy.packing`), and all prompts that of their common prefix
(`t2.policy.prefix`). Logits exist only for tokens of completions, one chunk at a time, and never in the backward pass,
so that no (N, T, V) tensor exists. The reference policy of a KL is the same network with
the adapter off (no second model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.models.precision import NonFiniteError
from t2.policy.packing import Layout, distinct, group_by_prompt, plain_rows, sampled_log_probs, shared_rows, with_prefix
from t2.policy.prefix import Prefix, common_prefix, prefix_cache, read_prefix
from t2.types import Completion

KLDirection = Literal["policy_base", "base_policy"]  # KL(policy || base), as in the paper, or the reverse


CHUNK_TOKENS = 512  # (512, V) fp32 logits are 100 MB at V = 49k, 250 MB at V = 128k
PREFIX_SAVES_AT_LEAST = 64  # tokens that are not computed again: below that, another forward costs more


@dataclass(frozen=True)
class TokenLogProbs:
    """Results of the forward pass for each completion token; `mask` is False where padded.

    `log_probs` carries the gradient; `sampled` are the log-probs kept at sampling. `entropy` is detached. `kl` is the
    divergence between policy and base at each position over the full vocabulary (None when it was not asked for).
    """

    log_probs: Tensor  # (N, T)
    mask: Tensor  # (N, T) bool
    entropy: Tensor  # (N, T)
    kl: Tensor | None  # (N, T)
    sampled: Tensor  # (N, T)


def token_log_probs(
    lm: LanguageModel,
    completions: Sequence[Completion],
    *,
    temperature: float = 1.0,
    kl: KLDirection | None = None,
    adapter: Adapter | None = None,
    shared: bool = False,
    prefix: Prefix | None = None,
) -> TokenLogProbs:
    """Log-prob, entropy and (where `kl` names a direction) divergence from the base, at every completion token.

    The adapter's present mode is used, and gradients flow unless disabled by the caller. `kl` needs
    `adapter`. `temperature` divides the logits, as in sampling; the KL is between the untempered policies (paper Eq.
    1). `shared` puts neighbors with one prompt into one row, equal ones once, and computes what all prompts begin with
    once: the same numbers for less work, on models for which `t2.policy.prompt_sharing.prompts_can_be_shared`. Several
    calls without gradients can take over one `prefix`, which all their prompts begin with.

    Raises:
        NonFiniteError: a log-prob or divergence that is NaN or infinite; it names the completion and the token.
    """
    assert prefix is None or (shared and kl is None), "a prefix is taken over by shared rows without a KL"
    firsts, where = distinct(completions) if shared else (list(range(len(completions))),) * 2
    once = [completions[index] for index in firsts]
    layout, ids = _lay_out(lm, once, shared=shared, given=None if prefix is None else prefix.ids)
    hidden = _completion_states(lm, layout, prefix or read_prefix(lm, ids))  # (L, D), L = all completion tokens
    base = None
    if kl is not None:
        assert adapter is not None, "a KL to the base needs the adapter that is switched off for it"
        with torch.no_grad(), adapter.disabled():
            base = _completion_states(lm, layout, read_prefix(lm, ids))  # (L, D)
    starts = range(0, len(layout.targets), CHUNK_TOKENS)
    parts = [
        _chunk(lm, hidden[span], layout.targets[span], None if base is None else base[span], temperature, kl)
        for span in (slice(start, start + CHUNK_TOKENS) for start in starts)
    ]
    log_probs, entropy, divergence = (torch.cat(column) for column in zip(*parts, strict=True))  # (L,) each
    _check_finite({"log-prob": log_probs, "KL to the base": divergence}, lm, completions, firsts)
    log_probs, mask, entropy, divergence = (
        _unflatten(flat, layout)[where]  # (N, T)
        for flat in (log_probs, torch.ones_like(log_probs, dtype=torch.bool), entropy, divergence)
    )
    return TokenLogProbs(
        log_probs=log_probs,
        mask=mask,
        entropy=entropy,
        kl=None if kl is None else divergence,
        sampled=sampled_log_probs(completions, log_probs),
    )


def _lay_out(
    lm: LanguageModel, completions: Sequence[Completion], *, shared: bool, given: tuple[int, ...] | None
) -> tuple[Layout, tuple[int, ...]]:
    """The rows of a forward, and the tokens before all of them: those `given`, or none where they save too little."""
    groups = group_by_prompt(completions) if shared else []
    prompts = [completions[group[0]].prompt_ids for group in groups]
    if given is not None:
        length = len(given)
    else:
        length = common_prefix(prompts, lm.placeholder_ids) if len(prompts) > 1 else 0
        # Gradients reach a prefix's keys past the end of its block, where a sharded block is not put together again.
        if length * (len(prompts) - 1) < PREFIX_SAVES_AT_LEAST or (lm.sharded and torch.is_grad_enabled()):
            length = 0
    if not length and len(groups) in (0, len(completions)):  # a tree mask would be for nothing
        return plain_rows(completions, lm.pad_id, lm.device), ()
    tails = [replace(one, prompt_ids=one.prompt_ids[length:]) for one in completions] if length else completions
    return with_prefix(shared_rows(tails, lm.pad_id, lm.device), length), prompts[0][:length]


def _completion_states(lm: LanguageModel, layout: Layout, prefix: Prefix) -> Tensor:
    """Last hidden states where completion tokens are predicted, (L, D)."""
    before = prefix_cache(prefix, len(layout.input_ids))
    rows = (layout.input_ids, layout.attention_mask, layout.position_ids, layout.images, layout.prompt_lengths)
    states = lm.hidden_states(*rows, **before)
    return states[layout.row, layout.column]


def _check_finite(
    numbers: Mapping[str, Tensor], lm: LanguageModel, completions: Sequence[Completion], computed: Sequence[int]
) -> None:
    """Raise NonFiniteError where a number of the tokens of the `computed` completions, (L,) by name, is NaN or
    infinite."""
    if bool(torch.stack([values.detach().isfinite().all() for values in numbers.values()]).all()):
        return  # after the only transfer from the device
    what, values = next((what, values) for what, values in numbers.items() if not bool(values.isfinite().all()))
    finite = values.detach().isfinite()
    token = int((~finite).long().argmax())
    for index in computed:
        if token < len(completions[index].token_ids):
            break
        token -= len(completions[index].token_ids)
    prompt = next(number for number, group in enumerate(group_by_prompt(completions)) if index in group)
    value = float(values.detach()[~finite][0])
    raise NonFiniteError(f"The {what}", value, prompt=prompt, completion=index, token=token, dtype=lm.dtype)


def _unflatten(flat: Tensor, layout: Layout) -> Tensor:
    """(L,) -> (N, T), zeros (False) where a completion is shorter."""
    return pad_sequence(list(torch.split(flat, list(layout.lengths))), batch_first=True)


def _chunk(
    lm: LanguageModel,
    hidden: Tensor,
    targets: Tensor,
    base: Tensor | None,
    temperature: float,
    kl: KLDirection | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and divergences (l,) of one chunk."""

    def compute(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        logits = lm.logits(hidden)  # (l, V) fp32
        log_p = torch.log_softmax(logits / temperature, dim=-1)
        chosen = log_p.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(dim=-1)
        if base is None:
            return chosen, entropy, None
        if temperature != 1.0:
            log_p = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            log_q = torch.log_softmax(lm.logits(base), dim=-1)
        first, second = (log_p, log_q) if kl == "policy_base" else (log_q, log_p)
        return chosen, entropy, (first.exp() * (first - second)).sum(dim=-1)

    if hidden.requires_grad:
        chosen, entropy, divergence = _RowWise.apply(hidden, compute)  # type: ignore[no-untyped-call]
    else:
        chosen, entropy, divergence = compute(hidden)
    return chosen, entropy, torch.zeros_like(entropy) if divergence is None else divergence


class _RowWise(torch.autograd.Function):
    """Functions of one row of the hidden states each, with gradients taken in the forward pass.

    The gradient of their sum holds that of each, row by row (l, D), and is all that is kept: the logits, many times as
    large, are freed before the backward pass and not computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, compute: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            chosen, entropy, divergence = compute(leaf)
            gradients = [
                torch.autograd.grad(value.sum(), leaf, retain_graph=value is chosen and divergence is not None)[0]
                for value in (chosen, divergence)
                if value is not None
            ]
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(entropy)
        return chosen.detach(), entropy, None if divergence is None else divergence.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor, None]:
        chosen, _, divergence = outer
        total = sum(
            gradient * weight[:, None].to(gradient.dtype)
            for gradient, weight in zip(ctx.saved_tensors, (chosen, divergence), strict=False)
            if weight is not None
        )
        return total, None
