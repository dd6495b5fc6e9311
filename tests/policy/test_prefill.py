"""Prompts read together, with their common beginning once: the same numbers as one by one, for fewer tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_models import adapted, original, random_state, stacked, tiny

from t2.models.language_model import LanguageModel
from t2.policy import prefix as module
from t2.policy.prefix import SHARED_AT_LEAST, common_prefix, prefill
from t2.types import Example

SYSTEM = "You are a helpful assistant who answers briefly."
QUESTIONS = ("Why?", "Why is this so much longer than that?", "Why not?", "Whence?")


def asked(lm: LanguageModel) -> list[tuple[int, ...]]:
    return [tuple(lm.encode(Example(question, system=SYSTEM))) for question in QUESTIONS]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
@torch.no_grad()
def test_logits_are_those_of_each_prompt_alone(architecture: str) -> None:
    lm = original(architecture)
    prompts = asked(lm)
    assert common_prefix(prompts) >= SHARED_AT_LEAST
    read = prefill(lm, prompts, [0] * 4, lambda which: None, new_tokens=1)
    assert read.cache.get_seq_length() == read.mask.shape[1]
    assert read.shift.tolist() == [0] * 4
    for number, prompt in enumerate(prompts):
        alone = lm.model(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(read.logits[number], alone, rtol=0, atol=1e-4)
        assert int(read.mask[number].sum()) == len(prompt)


@torch.no_grad()
def test_every_state_reads_the_beginning_itself() -> None:
    lm, svf = adapted()
    scales = stacked(*(random_state(svf, seed, 0.3) for seed in range(3)))
    prompts, states = asked(lm), [2, 0, 2, 1]
    with svf.per_example(scales) as select:
        read = prefill(
            lm, prompts, states, lambda which: select(torch.tensor([states[i] for i in which])), new_tokens=1
        )
    for row, (prompt, state) in enumerate(zip(prompts, states, strict=True)):
        with svf.merged({name: each[state] for name, each in scales.items()}):
            alone = lm.model(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(read.logits[row], alone, rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_common_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    prompts, widths = asked(lm), []
    forward = lm.model.base_model.forward

    def counting(*args: object, **kwargs: object) -> object:
        widths.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(lm.model.base_model, "forward", counting)
    shared = common_prefix(prompts)
    prefill(lm, prompts, [0] * 4, lambda which: None, new_tokens=1)
    assert widths == [(1, shared), (4, max(map(len, prompts)) - shared)]
    widths.clear()
    prefill(lm, prompts, [0, 1, 2, 3], lambda which: None, new_tokens=1)  # nobody to share it with
    assert widths == [(4, max(map(len, prompts)))]


def test_a_short_window_reads_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("mistral")
    prompts = asked(lm)
    monkeypatch.setattr(lm.model.config.get_text_config(), "sliding_window", max(map(len, prompts)) + 5)
    assert module._slides(lm, prompts, new_tokens=6)
    assert not module._slides(lm, prompts, new_tokens=5)
