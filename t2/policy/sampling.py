"""Greedy decoding, and sampling by inverting the cumulative distribution at a given uniform number.

A sample is a function of its uniform number alone, whatever else is sampled in the same batch. The distribution is
inverted in two steps, of blocks of tokens and then within one block, so that what is summed up in float64 is small:

    w = exp(l - max l)        the block at which the sum of blocks passes u sum(w), then the token within it

which takes an eighth of the time of one sum over a vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2.types import Sampling

BLOCK = 256  # tokens
CANDIDATES = 1024  # most likely tokens among which top_p's set is looked for first


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next tokens (n,) and their log-probs (n,) from logits (n, V) and one uniform number in [0, 1) per row (n,).

    Log-probs are of the full distribution at `sampling.scoring_temperature`, also where top_p cuts it.
    """
    scaled = logits.float()
    if sampling.scoring_temperature != 1.0:
        scaled = scaled / sampling.scoring_temperature
    highest = scaled.amax(dim=-1, keepdim=True)
    weights = (scaled - highest).exp_()  # (n, V), of the most likely token 1
    blocks = _block_sums(weights)
    if sampling.temperature == 0.0:
        tokens = scaled.argmax(dim=-1)
    elif sampling.top_p == 1.0:
        tokens = _invert(weights, blocks, uniforms)
    else:
        tokens = _invert_most_likely(weights, blocks, uniforms, sampling.top_p)
    log_probs = scaled.gather(1, tokens[:, None]) - highest - blocks.sum(dim=-1, keepdim=True).log()
    return tokens, log_probs.squeeze(1).float()


def _block_sums(weights: Tensor) -> Tensor:
    """Sums (n, ceil(V / BLOCK)) of weights (n, V), in float64 from those of blocks in fp32."""
    whole = weights.shape[1] // BLOCK * BLOCK
    sums = weights[:, :whole].view(len(weights), whole // BLOCK, BLOCK).sum(dim=-1)
    rest = weights[:, whole:].sum(dim=-1, keepdim=True)
    return (torch.cat([sums, rest], dim=1) if whole < weights.shape[1] else sums).double()


def _invert(weights: Tensor, blocks: Tensor, uniforms: Tensor) -> Tensor:
    """The tokens (n,) at which the cumulative sum of weights (n, V) passes its share `uniforms` (n,)."""
    until = blocks.cumsum(dim=-1)
    target = uniforms[:, None] * until[:, -1:]
    block = _passing(until, target)  # (n, 1)
    tokens = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    outside = tokens >= weights.shape[1]  # of a last block that is shorter
    within = weights.gather(1, tokens.clamp(max=weights.shape[1] - 1)).double().masked_fill(outside, 0.0)
    before = until.gather(1, block) - blocks.gather(1, block)
    # Not below 0, where rounding would choose the block's first token whatever its weight.
    position = _passing(within.cumsum(dim=-1), (target - before).clamp_min(0.0))
    return (block * BLOCK + position).squeeze(1)


def _invert_most_likely(weights: Tensor, blocks: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """As `_invert` of the smallest set of tokens whose share reaches `top_p`, most likely tokens first.

    Rows whose set is larger than CANDIDATES are sorted whole, the others are not, whatever else is in the batch.
    """
    enough = top_p * blocks.sum(dim=-1, keepdim=True)  # (n, 1)
    most, index = weights.topk(min(CANDIDATES, weights.shape[1]), dim=-1)
    tokens = _invert_set(most, index, enough, uniforms)
    more = most.double().sum(dim=-1) < enough.squeeze(1)
    if more.any():
        ordered, index = weights[more].sort(dim=-1, descending=True)
        tokens[more] = _invert_set(ordered, index, enough[more], uniforms[more])
    return tokens


def _invert_set(ordered: Tensor, index: Tensor, enough: Tensor, uniforms: Tensor) -> Tensor:
    """As `_invert`, of the first weights (n, m) of tokens `index`, in descending order, that add up to `enough`."""
    until = ordered.double().cumsum(dim=-1)  # (n, m)
    last = (until < enough).sum(dim=-1, keepdim=True).clamp_max(until.shape[1] - 1)
    position = _passing(until, uniforms[:, None] * until.gather(1, last))
    return index.gather(1, position).squeeze(1)


def _passing(until: Tensor, target: Tensor) -> Tensor:
    """The first positions (n, 1) at which a cumulative sum (n, m) is above the target (n, 1).

    Where rounding puts the target at the end or beyond, the last position that adds to the sum.
    """
    last = (until < until[:, -1:]).sum(dim=-1, keepdim=True)
    return torch.searchsorted(until, target, right=True).minimum(last)
