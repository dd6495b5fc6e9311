"""Rows that share a prompt compute what plain rows compute: log-probs, gradients, entropy and divergence."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import group_by_prompt, micro_batches, plain_rows, shared_rows, tree_mask
from t2.policy.prompt_sharing import exceeds_window, prompts_can_be_shared
from t2.types import Completion

SHAREABLE = ("llama", "llama_bias", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3")


def completion(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Completion:
    return Completion(prompt, tokens, (0.0,) * len(tokens), "", "stop")


def draw(seed: int, prompts: tuple[int, ...] = (7, 3, 12), samples: tuple[int, ...] = (5, 1, 9, 2)) -> list[Completion]:
    """Unequal prompts and answers, one of them a single (stop) token."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    heads = [ids(length) for length in prompts]
    return [completion(head, ids(length)) for head in heads for length in samples]


def adapted(architecture: str, dtype: torch.dtype = torch.float64) -> tuple[LanguageModel, SVF]:
    lm = tiny_model(architecture)
    lm.model.to(dtype)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    generator = torch.Generator().manual_seed(1)
    svf.load({name: 1 + 0.05 * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()})
    return lm, svf


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


@pytest.mark.parametrize("samples", [(6,), (1,), (1, 1, 1), (4, 4)])
def test_one_sample_and_stop_token_first(samples: tuple[int, ...]) -> None:
    lm, _ = adapted("llama")
    completions = draw(3, samples=samples)
    plain, shared = (token_log_probs(lm, completions, shared=choice).log_probs for choice in (False, True))
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-6)


def test_shared_rows_are_smaller() -> None:
    completions = draw(0, prompts=(40,), samples=(6,) * 8)
    sizes = [layout(completions, 0, torch.device("cpu")).input_ids.numel() for layout in (plain_rows, shared_rows)]
    assert sizes == [8 * 45, 40 + 8 * 5]


def test_a_completion_sees_its_prompt_and_itself_only() -> None:
    mask = tree_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert mask.int().tolist() == expected


def test_every_tried_architecture_passes_its_self_check() -> None:
    assert [name for name in SHAREABLE if not prompts_can_be_shared(tiny_model(name))] == []


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
    assert "apart from plain rows" in caplog.text


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


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=6)), min_size=1, max_size=6
    ),
    st.integers(1, 200),
    st.booleans(),
)
def test_micro_batches_cover_everything_once_within_budget(
    groups: list[tuple[int, list[int]]], tokens: int, shared: bool
) -> None:
    completions = [
        completion((number, *range(length)), (1,) * size)
        for number, (length, sizes) in enumerate(groups)
        for size in sizes
    ]
    batches = micro_batches(completions, tokens, shared=shared)
    assert sorted(index for batch in batches for index in batch) == list(range(len(completions)))
    for batch in batches:
        part = [completions[index] for index in batch]
        layout = (shared_rows if shared else plain_rows)(part, 0, torch.device("cpu"))
        assert layout.input_ids.numel() <= tokens or len(batch) == 1 or len(layout.input_ids) == 1


def test_neighbors_with_one_prompt_are_a_group() -> None:
    a, b = (1, 2), (3,)
    completions = [completion(prompt, (1,)) for prompt in (a, a, b, a)]
    assert group_by_prompt(completions) == [[0, 1], [2], [3]]
