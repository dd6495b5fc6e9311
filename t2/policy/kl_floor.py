"""The KL to the base that rounding alone gives: in half precision, no KL below it means anything.

    policy  z = 1 + 1e-4 noise, in the factored mode        a true KL of about 1e-6 nats (SmolLM2-135M)
    base    the adapter off

Both round their hidden states in the model's dtype, but not alike.
"""

from __future__ import annotations

import torch

from t2.adapters.base import PerExampleAdapter
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import KLDirection, token_log_probs
from t2.types import Completion

ROWS, PROMPT, TOKENS = 4, 16, 32
NOISE = 1e-4


@torch.no_grad()
def kl_floor(lm: LanguageModel, adapter: PerExampleAdapter, direction: KLDirection) -> float:
    """Mean KL per token, in nats, of random tokens between the base and what the adapter computes at z = 1 + 1e-4."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (ROWS, PROMPT + TOKENS), generator=generator)
    ids[torch.isin(ids, torch.tensor(lm.placeholder_ids))] = 0
    probe = [Completion(tuple(row[:PROMPT]), tuple(row[PROMPT:]), (0.0,) * TOKENS, "", "stop") for row in ids.tolist()]
    scales = {
        name: 1 + NOISE * torch.randn(1, len(mask), generator=generator) * mask
        for name, mask in adapter.learnable().items()
    }
    with adapter.per_example(scales) as select:
        select(torch.zeros(ROWS, dtype=torch.long, device=lm.index_device))
        token = token_log_probs(lm, probe, kl=direction, adapter=adapter)
    assert token.kl is not None, "it was asked for"
    return float(token.kl.sum() / token.mask.sum())
