"""What prompts begin with, computed once, changes nothing: log-probs, gradients, divergence, before images too."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import adapted as at_one
from tiny_models import original, tiny
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_llava
from t2.policy.log_probs import PREFIX_SAVES_AT_LEAST, token_log_probs
from t2.policy.packing import shared_rows, with_prefix
from t2.policy.prefix import SHARED_AT_LEAST, Prefix, common_prefix, prefix_cache, read_prefix
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.training.activation_checkpointing import recompute_blocks
from t2.types import Completion, Example, PixelImage

SHAREABLE = ("llama", "llama_bias", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3")


def draw(seed: int, prefix: int, tails: tuple[int, ...], samples: tuple[int, ...]) -> list[Completion]:
    """Answers to prompts that begin with the same tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    head = ids(prefix)
    prompts = [head + ids(length) for length in tails]
    return [Completion(prompt, ids(length), (0.0,) * length, "", "stop") for prompt in prompts for length in samples]


def adapted(architecture: str) -> tuple[LanguageModel, SVF]:
    return at_one(architecture, dtype=torch.float64, spread=0.05, seed=1)


class Widths:
    """The shapes of input ids that a model was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, ...]] = []
        honest = LanguageModel.hidden_states

        def watched(lm: LanguageModel, ids: Tensor, *args: object, **kwargs: object) -> Tensor:
            self.seen.append(tuple(ids.shape))
            return honest(lm, ids, *args, **kwargs)

        monkeypatch.setattr(LanguageModel, "hidden_states", watched)


@pytest.mark.parametrize("architecture", SHAREABLE)
@pytest.mark.parametrize("kl", [None, "policy_base"])
def test_sharing_a_prefix_changes_nothing(architecture: str, kl: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, svf = adapted(architecture)
    completions = draw(0, 30, (4, 1, 7, 7), (5, 1, 3))
    widths, found = Widths(monkeypatch), []
    for shared in (False, True):
        token = token_log_probs(lm, completions, temperature=0.7, kl=kl, adapter=svf, shared=shared)
        weight = torch.linspace(-1, 1, len(completions))[:, None]
        loss = (weight * token.log_probs).sum() + (0 if token.kl is None else token.kl.sum())
        found.append((token, torch.cat(torch.autograd.grad(loss, svf.trainable()))))
    (plain, plain_gradient), (one, gradient) = found
    torch.testing.assert_close(one.log_probs, plain.log_probs, rtol=0, atol=2e-5)
    torch.testing.assert_close(one.entropy, plain.entropy, rtol=0, atol=2e-5)
    if kl is not None:
        torch.testing.assert_close(one.kl, plain.kl, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-4, atol=1e-5 * float(plain_gradient.abs().max()))
    passes = 1 if kl is None else 2
    assert widths.seen == [(12, 41)] * passes + [(1, 30), (4, 13)] * passes


def test_one_answer_a_prompt_shares_what_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, _ = adapted("llama")
    long, short = draw(1, 70, (3, 5), (4,)), draw(1, 9, (3, 5), (4,))
    widths = Widths(monkeypatch)
    for completions in (long, short):
        plain, shared = (token_log_probs(lm, completions, shared=choice).log_probs for choice in (False, True))
        torch.testing.assert_close(shared, plain, rtol=0, atol=2e-5)
    assert widths.seen == [(2, 78), (1, 70), (2, 8), (2, 17), (2, 17)]


def test_a_prefix_that_saves_too_little_is_left_in_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, _ = adapted("llama")
    tokens = PREFIX_SAVES_AT_LEAST // 2
    for length, saved in ((tokens, True), (tokens - 1, False)):
        widths = Widths(monkeypatch)
        token_log_probs(lm, draw(2, length, (2, 3, 4), (2, 2)), shared=True)
        assert ((1, length) in widths.seen) is saved
        monkeypatch.undo()


def test_blocks_that_are_computed_again_give_the_same_gradient() -> None:
    completions = draw(3, 40, (4, 6, 2), (5, 2))
    found = []
    for again in (False, True):
        lm, svf = adapted("llama")
        if again:
            recompute_blocks(lm.model)
        loss = token_log_probs(lm, completions, shared=True).log_probs.square().sum()
        found.append(torch.cat(torch.autograd.grad(loss, svf.trainable())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_images_follow_a_prefix() -> None:
    lm = tiny_llava()
    images = [PixelImage(bytes([number]) * 64, (8, 8)) for number in (0, 90, 200)]
    prompts = [tuple(lm.encode(Example("Which?", images=(image,)))) for image in images]
    head = draw(4, 40, (1,), (1,))[0].prompt_ids[:40]
    completions = [
        Completion(head + prompt, answer, (0.0,) * len(answer), "", "stop", (image,))
        for prompt, image in zip(prompts, images, strict=True)
        for answer in ((5, 6, 7), (8,))
    ]
    assert common_prefix([one.prompt_ids for one in completions], lm.placeholder_ids) >= 40
    plain, shared = (token_log_probs(lm, completions, shared=choice).log_probs for choice in (False, True))
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-4)


def test_the_self_check_covers_a_prefix(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    honest = LanguageModel.hidden_states

    def forgetful(lm: LanguageModel, ids: Tensor, mask: Tensor, *args: object, **cache: object) -> Tensor:
        if "past_key_values" in cache and mask.ndim == 4:
            mask = mask.clone()
            mask[..., : mask.shape[-1] - mask.shape[-2]] = False
        return honest(lm, ids, mask, *args, **cache)

    monkeypatch.setattr(LanguageModel, "hidden_states", forgetful)
    with caplog.at_level(logging.WARNING):
        assert not prompts_can_be_shared(tiny())
    assert "does not see the beginning of the prompt" in caplog.text


def test_keys_and_values_never_grow() -> None:
    lm, _ = adapted("llama")
    completions = draw(5, 12, (2, 3), (2, 2))
    prefix = read_prefix(lm, completions[0].prompt_ids[:12])
    before = prefix_cache(prefix, 2)
    tails = [replace(one, prompt_ids=one.prompt_ids[12:]) for one in completions]
    layout = with_prefix(shared_rows(tails, lm.pad_id, lm.device), 12)
    once, twice = (
        lm.hidden_states(layout.input_ids, layout.attention_mask, layout.position_ids, **before) for _ in range(2)
    )
    assert torch.equal(once, twice)
    assert before["past_key_values"].get_seq_length() == 12


def test_no_prefix_needs_no_cache() -> None:
    assert read_prefix(original(), ()) == Prefix((), ())
    assert prefix_cache(Prefix((), ()), 3) == {}


@given(
    prefix=st.lists(st.integers(0, 3), max_size=20),
    tails=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_the_common_prefix_is_common_and_leaves_a_token(prefix: list[int], tails: list[list[int]]) -> None:
    prompts = [(*prefix, *tail) for tail in tails]
    length = common_prefix(prompts)
    assert length == 0 or SHARED_AT_LEAST <= length < min(map(len, prompts))
    assert len({prompt[:length] for prompt in prompts}) == 1
    longest = min(map(len, prompts)) - 1
    if 0 < length < longest:
        assert len({prompt[: length + 1] for prompt in prompts}) > 1


def test_the_common_prefix_ends_before_a_stop() -> None:
    prompt = tuple(range(20))
    assert common_prefix([(*prompt, 1), (*prompt, 2)]) == 20
    assert common_prefix([(*prompt, 1), (*prompt, 2)], stops=(12,)) == 12
    assert common_prefix([(*prompt, 1), (*prompt, 2)], stops=(3,)) == 0
