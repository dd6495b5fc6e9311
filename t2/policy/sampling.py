"""Greedy decoding, and sampling by inverting the cumulative distribution at a given uniform number.

A sample is a function of its uniform number alone, whatever else is sampled in the same batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2.types import Sampling


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next tokens (n,) and their log-probs (n,) from logits (n, V) and one uniform number in [0, 1) per row (n,).

    Log-probs are of the full distribution at `sampling.scoring_temperature`, also where top_p cuts it.
    """
    log_probs = torch.log_softmax(logits.float() / sampling.scoring_temperature, dim=-1)  # (n, V)
    if sampling.temperature == 0.0:
        tokens = log_probs.argmax(dim=-1)
    else:
        tokens = _invert(log_probs.double().exp(), uniforms, sampling.top_p)
    return tokens, log_probs.gather(1, tokens[:, None]).squeeze(1)


def _invert(probabilities: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """The token at which the cumulative distribution passes the uniform number, most likely tokens first."""
    ordered, index = (probabilities, None) if top_p == 1.0 else probabilities.sort(dim=-1, descending=True)
    cumulative = ordered.cumsum(dim=-1)  # (n, V)
    mass = cumulative[:, -1:]
    if index is not None:  # keep the smallest set of tokens whose mass reaches top_p
        before = (cumulative < top_p * mass).sum(dim=-1, keepdim=True)
        mass = cumulative.gather(1, before)
    target = uniforms[:, None] * mass
    position = torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[1] - 1)
    return (position if index is None else index.gather(1, position)).squeeze(1)
