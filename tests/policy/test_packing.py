"""Rows show each token its prompt and its own completion, and those that share a prompt compute what plain rows do."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import (
    Layout,
    group_by_prompt,
    micro_batches,
    plain_rows,
    sampled_log_probs,
    shared_rows,
    tree_mask,
    with_prefix,
)
from t2.policy.prompt_sharing import exceeds_window, prompts_can_be_shared
from t2.types import Completion, PixelImage

CPU, META = torch.device("cpu"), torch.device("meta")  # meta: another device, on every machine
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


# Layouts


def seen(layout: Layout) -> list[tuple[list[tuple[int, int]], int]]:
    """For each completion token: the (position, id) pairs that its prediction sees, and the token itself."""
    found = []
    for row, column, target in zip(layout.row.tolist(), layout.column.tolist(), layout.targets.tolist(), strict=True):
        mask = layout.attention_mask
        visible = mask[row, 0, column] if mask.ndim == 4 else torch.arange(mask.shape[1]) <= column
        pairs = torch.stack([layout.position_ids[row], layout.input_ids[row]], dim=1)[visible.bool()]
        found.append(([(position, token) for position, token in pairs.tolist()], target))
    return found


GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=6)), min_size=1, max_size=6
)  # the length of each prompt, and those of its completions


def of_groups(groups: list[tuple[int, list[int]]]) -> list[Completion]:
    return [
        completion((number, *range(length)), tuple(range(size)))
        for number, (length, sizes) in enumerate(groups)
        for size in sizes
    ]


@given(GROUPS)
@pytest.mark.parametrize("layout", [plain_rows, shared_rows])
def test_a_token_sees_its_prompt_and_what_came_before_it(layout, groups: list[tuple[int, list[int]]]) -> None:
    completions = of_groups(groups)
    made = layout(completions, 0, CPU)
    assert seen(made) == [
        (list(enumerate(c.prompt_ids + c.token_ids[:index])), token)
        for c in completions
        for index, token in enumerate(c.token_ids)
    ]
    assert made.lengths == tuple(len(c.token_ids) for c in completions)


def test_rows_by_hand() -> None:
    image, other = (PixelImage(bytes([number]), (1, 1)) for number in (1, 2))
    completions = [
        replace(completion(prompt, tokens), images=(of,))
        for prompt, tokens, of in [((10, 11), (1, 2, 3), image), ((10, 11), (4,), image), ((20,), (5, 6), other)]
    ]
    plain, shared = (layout(completions, 99, CPU) for layout in (plain_rows, shared_rows))
    assert plain.input_ids.tolist() == [[10, 11, 1, 2], [10, 11, 99, 99], [20, 5, 99, 99]]
    assert plain.attention_mask.tolist() == [[1] * 4] * 3
    assert plain.position_ids.tolist() == [[0, 1, 2, 3]] * 3
    assert plain.images == (image, image, other)
    assert shared.input_ids.tolist() == [[10, 11, 1, 2], [20, 5, 99, 99]]
    assert torch.equal(shared.attention_mask, tree_mask(torch.tensor([[0, 0, 1, 1], [0, 1, -1, -1]])))
    assert shared.images == (image, other)
    with pytest.raises(FrozenInstanceError):
        plain.images = ()  # type: ignore[misc]


@pytest.mark.parametrize("layout", [plain_rows, shared_rows])
def test_all_of_a_layout_is_on_the_device(layout) -> None:
    tensors = [value for value in vars(layout(draw(0), 0, META)).values() if isinstance(value, Tensor)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 6


def test_rows_after_a_prefix_see_all_of_it() -> None:
    own = shared_rows(draw(0), 0, CPU)
    made = with_prefix(own, 3)
    assert made.attention_mask.dtype == torch.bool
    assert made.attention_mask[..., :3].all()
    assert torch.equal(made.attention_mask[..., 3:], own.attention_mask)
    assert torch.equal(made.position_ids, own.position_ids + 3)
    assert torch.equal(made.column, own.column)


def test_branches_see_the_prompt_and_themselves_and_padding_sees_padding() -> None:
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
    assert tree_mask(torch.zeros(2, 3, device=META)).shape == (2, 1, 3, 3)


def test_neighbors_with_one_prompt_are_a_group() -> None:
    a, b = (1, 2), (3,)
    completions = [completion(prompt, (1,)) for prompt in (a, a, b, a)]
    assert group_by_prompt(completions) == [[0, 1], [2], [3]]
    completions[1] = replace(completions[1], images=(PixelImage(b"1", (1, 1)),))  # equal words about another image
    assert group_by_prompt(completions) == [[0], [1], [2], [3]]


def test_sampled_log_probs_are_padded_like_the_forwards() -> None:
    completions = [Completion((1,), (2,) * n, (-0.1,) * n, "", "stop") for n in (1, 3)]
    padded = sampled_log_probs(completions, torch.empty(2, 3, dtype=torch.float64))
    assert padded.tolist() == [[-0.1, 0.0, 0.0], [-0.1] * 3]  # in 64 bits
    assert sampled_log_probs(completions, torch.empty(2, 3, device=META)).device.type == "meta"
    with pytest.raises(AssertionError, match=r"\(2, 3\) against \(2, 4\)"):
        sampled_log_probs(completions, torch.empty(2, 4))


# Micro-batches


@given(GROUPS, st.integers(1, 200), st.booleans())
def test_micro_batches_cover_everything_once_within_budget(
    groups: list[tuple[int, list[int]]], tokens: int, shared: bool
) -> None:
    completions = of_groups(groups)
    batches = micro_batches(completions, tokens, shared=shared)
    assert sorted(index for batch in batches for index in batch) == list(range(len(completions)))
    for batch in batches:
        part = [completions[index] for index in batch]
        layout = (shared_rows if shared else plain_rows)(part, 0, CPU)
        assert layout.input_ids.numel() <= tokens or len(batch) == 1 or len(layout.input_ids) == 1


@pytest.mark.parametrize(
    ("rows", "tokens", "shared", "expected"),
    [
        ([(1, 2), (1, 5), (1, 3), (1, 1)], 10, False, [[1, 2], [0, 3]]),  # longest first, as many as fit exactly
        ([(1, 2), (1, 5), (1, 3), (1, 1)], 6, False, [[1], [2, 0], [3]]),
        ([(1, 2), (1, 5), (1, 3), (1, 1)], 6, True, [[1], [2, 0], [3]]),  # prompts of one sample are rows as well
        ([(2, 3, 3, 3, 3, 3), (1, 2), (1, 1)], 6, True, [[0, 1], [2, 3], [4], [5, 6]]),  # a prompt over the budget
        ([(2, 3, 3), (3, 2, 2), (1, 2)], 12, True, [[0, 1, 2, 3], [4]]),  # whole prompts together
    ],
)
def test_micro_batches_by_hand(
    rows: list[tuple[int, ...]], tokens: int, shared: bool, expected: list[list[int]]
) -> None:
    """Each row of the table: the length of a prompt, and those of its completions."""
    completions = [
        completion((number,) * prompt, (0,) * size) for number, (prompt, *sizes) in enumerate(rows) for size in sizes
    ]
    assert micro_batches(completions, tokens, shared=shared) == expected


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
