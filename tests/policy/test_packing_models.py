"""Shared rows on real architectures: equal to plain rows, or noticed."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.log_probs import token_log_probs
from t2.policy.prompt_sharing import exceeds_window, prompts_can_be_shared
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


def test_every_tried_architecture_passes_its_self_check() -> None:
    assert [name for name in SHAREABLE if not prompts_can_be_shared(tiny_model(name))] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_does_not_decide(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    """In half precision the largest difference of equal computations is that of a wrong mask in a kind model."""
    for name in SHAREABLE:
        assert prompts_can_be_shared(tiny_model(name, dtype=dtype)), name


def test_a_model_that_ignores_positions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the right mask the second sample would be read as if it came after the first."""
    honest = LanguageModel.hidden_states

    def counting(
        self: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, images: object = (), **cache: object
    ) -> Tensor:
        before = mask.shape[-1] - ids.shape[1] if mask.ndim == 4 else 0
        return honest(self, ids, mask, torch.arange(ids.shape[1]).expand_as(ids) + before, **cache)

    monkeypatch.setattr(LanguageModel, "hidden_states", counting)
    assert not prompts_can_be_shared(tiny_model("gpt2"))


def test_attention_that_takes_no_tree_mask_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_model("llama")
    lm.model.config._attn_implementation_internal = "flash_attention_2"
    monkeypatch.setattr(LanguageModel, "hidden_states", lambda *arguments, **named: pytest.fail("it was tried"))
    with caplog.at_level(logging.WARNING):
        assert not prompts_can_be_shared(lm)
    assert "the attention of LlamaForCausalLM is flash_attention_2" in caplog.text


def test_a_model_that_ignores_the_mask_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = LanguageModel.hidden_states

    def deaf(
        self: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, images: object = (), **cache: object
    ) -> Tensor:
        return honest(self, ids, torch.ones_like(ids), positions)

    monkeypatch.setattr(LanguageModel, "hidden_states", deaf)
    with caplog.at_level(logging.WARNING):
        assert not prompts_can_be_shared(tiny_model("llama"))
    assert "plain rows differ by" in caplog.text


def test_a_model_that_refuses_the_mask_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = LanguageModel.hidden_states

    def strict(
        self: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, images: object = (), **cache: object
    ) -> Tensor:
        if mask.ndim == 4:
            raise ValueError("masks have two dimensions here")
        return honest(self, ids, mask, positions, **cache)

    monkeypatch.setattr(LanguageModel, "hidden_states", strict)
    with caplog.at_level(logging.WARNING):
        assert not prompts_can_be_shared(tiny_model("llama"))
    assert "masks have two dimensions here" in caplog.text


def test_sliding_windows_are_noticed() -> None:
    lm = tiny_model("mistral")
    lm.model.config.sliding_window = 20
    assert not exceeds_window(lm, draw(0, prompts=(10,), samples=(10,)))
    assert exceeds_window(lm, draw(0, prompts=(10,), samples=(11,)))
    assert not exceeds_window(tiny_model("llama"), draw(0))
