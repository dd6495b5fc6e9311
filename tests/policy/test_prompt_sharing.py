"""Sharing is decided by what the numbers depend on, in half precision as in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from tiny_models import each_architecture, tiny
from torch import Tensor

from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.prompt_sharing import CHECK_TOKENS, exceeds_window, prompts_can_be_shared, why_not_shared
from tests.policy.packing_cases import draw

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
Forward = Callable[..., Tensor]


def decide(monkeypatch: pytest.MonkeyPatch, change: Callable[[Forward], Forward], dtype: torch.dtype) -> bool:
    """The decision for a tiny llama whose forward was changed."""
    monkeypatch.setattr(LanguageModel, "hidden_states", change(LanguageModel.hidden_states))
    return prompts_can_be_shared(tiny(dtype=dtype))


@each_architecture
@each_dtype
def test_every_tried_architecture_passes(architecture: str, dtype: torch.dtype) -> None:
    assert prompts_can_be_shared(tiny(architecture, dtype=dtype))


def deaf(honest: Forward) -> Forward:
    """A causal mask in place of any other."""

    def forward(lm: LanguageModel, ids: Tensor, mask: Tensor, *args: object, **cache: object) -> Tensor:
        return honest(lm, ids, torch.ones(len(ids), mask.shape[-1], dtype=torch.long), *args, **cache)

    return forward


def leaking(honest: Forward) -> Forward:
    """One token's state reaches the one after it, by less than half precision rounds between layouts."""

    def forward(lm: LanguageModel, ids: Tensor, mask: Tensor, *args: object, **cache: object) -> Tensor:
        states = honest(lm, ids, mask, *args, **cache)
        if mask.ndim == 4:
            states[:, 1:] += 0.01 * states[:, :-1]
        return states

    return forward


def unplaced(honest: Forward) -> Forward:
    """Positions are counted by column."""

    def forward(lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, *args: object, **kw: object) -> Tensor:
        columns = torch.arange(ids.shape[1]).expand_as(ids) + mask.shape[-1] - ids.shape[1]
        return honest(lm, ids, mask, columns if mask.ndim == 4 else positions, *args, **kw)

    return forward


def blind(honest: Forward) -> Forward:
    """Tokens see themselves alone."""

    def forward(lm: LanguageModel, ids: Tensor, mask: Tensor, *args: object, **cache: object) -> Tensor:
        alone = torch.eye(ids.shape[1], mask.shape[-1], dtype=torch.bool).roll(mask.shape[-1] - ids.shape[1], 1)
        return honest(lm, ids, alone.expand_as(mask) if mask.ndim == 4 else mask, *args, **cache)

    return forward


@each_dtype
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (deaf, "see each other"),
        (leaking, "see each other"),
        (unplaced, "ignores the positions"),
        (blind, "of the prompt"),
    ],
)
def test_a_fault_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Callable, message: str, dtype: torch.dtype
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not decide(monkeypatch, fault, dtype)
    assert message in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_that_depends_on_the_shape_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    def noisy(honest: Forward) -> Forward:
        def forward(lm: LanguageModel, ids: Tensor, *args: object, **cache: object) -> Tensor:
            states = honest(lm, ids, *args, **cache)
            noise = torch.Generator().manual_seed(states.numel())
            return states * (1 + 0.2 * torch.randn(states.shape, generator=noise).to(states.dtype))

        return forward

    with caplog.at_level(logging.INFO):
        assert decide(monkeypatch, noisy, dtype)
        assert not decide(monkeypatch, noisy, torch.float32)  # where it is far more than rounding
    noise, refusal = caplog.records[-2:]
    assert float(noise.args[0]) > float(noise.args[1]) > 0.1  # type: ignore[index,arg-type]
    assert "apart from plain rows (allowed" in refusal.getMessage()


def test_a_model_that_refuses_the_mask_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def strict(honest: Forward) -> Forward:
        def forward(lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, *images: object, **cache: object):
            if mask.ndim == 4:
                raise ValueError("masks have two dimensions here")
            return honest(lm, ids, mask, positions, **cache)

        return forward

    with caplog.at_level(logging.WARNING):
        assert not decide(monkeypatch, strict, torch.float32)
    assert "masks have two dimensions here" in caplog.text


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_other_attention_is_not_even_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, attention: str
) -> None:
    lm = tiny()
    lm.model.config.get_text_config()._attn_implementation_internal = attention
    monkeypatch.setattr(LanguageModel, "hidden_states", None)  # a forward would raise
    with caplog.at_level(logging.WARNING):
        assert not prompts_can_be_shared(lm)
    assert f"attends by '{attention}'" in caplog.text


def test_the_check_reads_as_many_tokens_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, read = tiny(), []
    inner = lm.model.base_model.forward

    def forward(*args: object, **kwargs: Tensor) -> object:
        read.append(kwargs["input_ids"].numel())
        return inner(*args, **kwargs)

    monkeypatch.setattr(lm.model.base_model, "forward", forward)
    assert why_not_shared(lm) is None
    assert sum(read) == CHECK_TOKENS


def test_sliding_windows_are_noticed() -> None:
    lm = tiny_model("mistral")
    lm.model.config.sliding_window = 20
    assert not exceeds_window(lm, draw(0, prompts=(10,), samples=(10,)))
    assert exceeds_window(lm, draw(0, prompts=(10,), samples=(11,)))
    assert not exceeds_window(tiny_model("llama"), draw(0))
