"""Keys and values held once, or grown in place: completions are bit for bit those of a cache that copies them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from zoo_models import tiny_architecture

import t2.policy.decode as decode
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_llava
from t2.policy.growing_cache import GrowingLayer, leave_room
from t2.policy.hf import HFGenerator
from t2.policy.prompt_cache import ROOM, SharedPromptLayer, share_prompts
from t2.types import Completion, Example, PixelImage, Sampling

LENGTHS = (3, 40, 11, 1, 25)
SAMPLED = Sampling(max_new_tokens=ROOM + 8, temperature=1.0, samples=4, seed=5)


def gemma3(window: int) -> LanguageModel:
    """A layer that slides and one that does not."""
    lm = tiny("gemma3")
    config, state = copy.deepcopy(lm.model.config), lm.model.state_dict()
    config.sliding_window, config.layer_types = window, ["sliding_attention", "full_attention"]
    lm.model = type(lm.model)(config).eval()
    lm.model.load_state_dict(state)
    return lm


def read() -> int:
    """Tokens of the longest prompt."""
    lm = tiny()
    return max(len(lm.encode(Example("x" * length))) for length in LENGTHS)


FITS = read() + SAMPLED.max_new_tokens
# model -> how to make it, and which of its layers hold prompts once
MODELS: dict[str, tuple[Callable[[], LanguageModel], list[bool]]] = {
    "llama": (tiny, [True, True]),
    "gpt2": (lambda: tiny("gpt2"), [True, True]),
    "gemma3, a window that all fits into": (lambda: gemma3(FITS), [True, True]),
    "gemma3, one token less": (lambda: gemma3(FITS - 1), [False, True]),
    "gemma3, a window shorter than prompts": (lambda: gemma3(16), [False, True]),
    "lfm2, convolutions": (lambda: tiny_architecture("lfm2"), [False, True]),
    "qwen3_next, running states": (lambda: tiny_architecture("qwen3_next"), [False, True]),
    "falcon_h1, both in a layer": (lambda: tiny_architecture("falcon_h1"), [False, False]),
    "deepseek_v3, keys wider than values": (lambda: tiny_architecture("deepseek_v3"), [True, True]),
    "llava": (tiny_llava, [True, True]),
}


def examples(lm: LanguageModel) -> list[Example]:
    images = [PixelImage(bytes([number]) * 64, (8, 8)) for number in range(0, 250, 50)]
    shown = [(image,) if lm.processor is not None else () for image in images]
    return [Example("x" * length, images=image) for length, image in zip(LENGTHS, shown, strict=True)]


Prepare = Callable[[DynamicCache, int], None]
WAYS: list[tuple[Prepare, type, int]] = [(share_prompts, SharedPromptLayer, 4), (leave_room, GrowingLayer, 1)]


def generated(
    lm: LanguageModel, share: Prepare, monkeypatch: pytest.MonkeyPatch, samples: int = 4
) -> tuple[list[list[Completion]], DynamicCache]:
    """Completions with a way to prepare the cache, and the cache at their end."""
    caches = []

    def prepared(cache: DynamicCache, new_tokens: int) -> None:
        share(cache, new_tokens)
        caches.append(cache)

    monkeypatch.setattr(decode, "share_prompts" if samples > 1 else "leave_room", prepared)
    answers = HFGenerator(lm).generate(examples(lm), replace(SAMPLED, samples=samples))
    (cache,) = caches
    return answers, cache


@pytest.mark.parametrize(("way", "layers", "samples"), WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_completions_are_bit_for_bit_those_of_a_copied_cache(
    model: str, way: Prepare, layers: type, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shares = MODELS[model]
    lm = make()
    lm.end_ids = frozenset(
        range(0, len(lm.tokenizer), 24 if samples > 1 else 60)
    )  # rows end at different steps and are dropped
    copied, _ = generated(lm, lambda cache, new_tokens: None, monkeypatch, samples)
    shared, cache = generated(lm, way, monkeypatch, samples)
    assert shared == copied
    assert [isinstance(layer, layers) for layer in cache.layers] == shares
    lengths = {len(one.token_ids) for row in copied for one in row}
    assert min(lengths) < ROOM < max(lengths) or (samples == 1 and len(lengths) > 1)  # of few rows


def test_a_prompt_is_held_once_however_many_samples_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    lm.end_ids = frozenset()
    answers, cache = generated(lm, share_prompts, monkeypatch)
    width = 2 * lm.model.config.num_key_value_heads * lm.model.config.head_dim  # keys and values
    prompts, rows, steps = len(LENGTHS), len(LENGTHS) * SAMPLED.samples, SAMPLED.max_new_tokens - 1
    assert len({one.token_ids[0] for row in answers for one in row}) > prompts  # they differ from the first token on
    for layer in cache.layers:
        assert layer.get_seq_length() == read() + steps
        assert layer.stored_numbers() == width * (prompts * read() + rows * math.ceil(steps / ROOM) * ROOM)


def states(generator: torch.Generator, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Keys and values, of different widths as in latent attention."""
    keys, values = (torch.randn(rows, tokens, 2, width, generator=generator) for width in (5, 3))
    return keys.transpose(1, 2), values.transpose(1, 2)


@given(
    way=st.sampled_from(WAYS),
    prompts=st.integers(1, 4),
    read=st.integers(1, 5),
    events=st.lists(st.integers(1, ROOM + 3) | st.lists(st.integers(0, 7), min_size=1, max_size=8), max_size=12),
)
def test_every_layer_is_that_of_transformers(
    way: tuple[Prepare, type, int], prompts: int, read: int, events: list[int | list[int]]
) -> None:
    prepare, layers, _ = way
    generator = torch.Generator().manual_seed(0)
    cache, honest = DynamicCache(), DynamicLayer()
    first = states(generator, prompts, read)
    cache.update(*first, 0)
    honest.update(*first)
    prepare(cache, 100)
    (layer,) = cache.layers
    assert isinstance(layer, layers)
    origin = list(range(prompts))  # the prompt of each row
    for event in events:
        if isinstance(event, int):
            new = states(generator, len(origin), event)
            assert layer.get_mask_sizes(event) == honest.get_mask_sizes(event)
            assert all(map(torch.equal, layer.update(*new), honest.update(*new)))
        else:
            index = [row % len(origin) for row in event]
            origin = [origin[row] for row in index]
            cache.reorder_cache(torch.tensor(index))
            honest.reorder_cache(torch.tensor(index))
        assert torch.equal(layer.keys, honest.keys)
        assert torch.equal(layer.values, honest.values)
        assert layer.get_seq_length() == honest.get_seq_length()
        if layers is GrowingLayer:
            continue
        own = math.ceil((layer.get_seq_length() - read) / ROOM) * ROOM
        assert layer.stored_numbers() == 2 * (5 + 3) * (len(set(origin)) * read + len(origin) * own)


def test_what_grows_in_place_is_copied_once_in_many_tokens() -> None:
    generator, cache = torch.Generator().manual_seed(0), DynamicCache()
    cache.update(*states(generator, 2, 3), 0)
    leave_room(cache, 100)
    places = [cache.update(*states(generator, 2, 1), 0)[0].data_ptr() for _ in range(2 * ROOM)]
    assert [places.count(one) for one in dict.fromkeys(places)] == [ROOM, ROOM]


@pytest.mark.parametrize("way", [share_prompts, leave_room])
def test_a_layer_that_nothing_was_read_into_stays(way: Prepare) -> None:
    cache = DynamicCache()
    cache.layers += [DynamicLayer(), DynamicSlidingWindowLayer(8)]
    way(cache, 1)
    assert [type(layer) for layer in cache.layers] == [DynamicLayer, DynamicSlidingWindowLayer]
