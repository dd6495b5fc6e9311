"""Activation checkpointing: the same numbers and gradients, and fewer tensors kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
from tiny_models import adapted
from torch import Tensor, nn

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.training.activation_checkpointing import recompute_blocks
from t2.types import Completion, Example, Sampling

ARCHITECTURES = ("llama", "qwen2", "gemma2", "gpt2")
ROLLOUT = [Completion((5, 6, 7), tuple(range(8 + n, 12 + n)), (0.0,) * 4, "", "length") for n in range(3)]


def gradients(lm: LanguageModel, svf: SVF) -> tuple[float, list[Tensor], int]:
    """Loss, gradients, and how many numbers autograd kept for the backward pass outside of recomputed blocks."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = token_log_probs(lm, ROLLOUT, shared=True).log_probs.sum()
    counted = kept
    return float(loss.detach()), list(torch.autograd.grad(loss, svf.trainable())), counted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_gradients_from_less_that_is_kept(architecture: str) -> None:
    lm, svf = adapted(architecture)
    plain_loss, plain, plain_kept = gradients(lm, svf)
    recompute_blocks(lm.model)
    loss, again, kept = gradients(lm, svf)
    assert loss == pytest.approx(plain_loss, abs=1e-5)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert kept < 0.5 * plain_kept


def test_generation_with_a_cache_is_untouched() -> None:
    lm, svf = adapted("llama")
    ask = [Example("What is 2 + 2?")]
    before = HFGenerator(lm, svf).generate(ask, Sampling(max_new_tokens=6))
    recompute_blocks(lm.model)
    assert HFGenerator(lm, svf).generate(ask, Sampling(max_new_tokens=6)) == before


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no list of decoder blocks"):
        recompute_blocks(nn.Linear(2, 2))
