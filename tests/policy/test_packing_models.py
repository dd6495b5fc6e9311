"""Shared rows on real architectures: equal to plain rows."""

from __future__ import annotations

import pytest
import torch

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.log_probs import token_log_probs
from tests.policy.packing_cases import draw

SHAREABLE = ("llama", "llama_bias", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3")


def adapted(architecture: str, dtype: torch.dtype = torch.float64) -> tuple[LanguageModel, SVF]:
    lm = tiny_model(architecture)
    lm.model.to(dtype)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    generator = torch.Generator().manual_seed(1)
    svf.load({name: 1 + 0.05 * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()})
    return lm, svf


# With a model


@pytest.mark.parametrize("architecture", SHAREABLE)
@pytest.mark.parametrize("kl", [None, "policy_base", "base_policy"])
def test_shared_rows_equal_plain_rows(architecture: str, kl: str | None) -> None:
    lm, svf = adapted(architecture)
    completions = draw(0)
    found = []
    for shared in (False, True):
        token = token_log_probs(lm, completions, temperature=0.7, kl=kl, adapter=svf, shared=shared)
        weight = torch.linspace(-1, 1, len(completions))[:, None]
        loss = (weight * token.log_probs).sum() + (0 if token.kl is None else token.kl.sum())
        gradients = torch.autograd.grad(loss, svf.trainable())
        found.append((token, torch.cat(gradients)))
    (plain, plain_gradient), (shared, shared_gradient) = found
    assert torch.equal(plain.mask, shared.mask)
    torch.testing.assert_close(shared.log_probs, plain.log_probs, rtol=0, atol=2e-5)
    torch.testing.assert_close(shared.entropy, plain.entropy, rtol=0, atol=2e-5)
    if kl is not None:
        torch.testing.assert_close(shared.kl, plain.kl, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        shared_gradient, plain_gradient, rtol=1e-4, atol=1e-5 * float(plain_gradient.abs().max())
    )
