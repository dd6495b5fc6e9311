"""Rows show each token its prompt and its own completion, and those that share a prompt compute what plain rows do."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.policy.packing import (
    Layout,
    distinct,
    group_by_prompt,
    micro_batches,
    plain_rows,
    sampled_log_probs,
    shared_rows,
    tree_mask,
    with_prefix,
)
from t2.types import Completion, PixelImage
from tests.policy.packing_cases import completion, draw

CPU, META = torch.device("cpu"), torch.device("meta")  # meta: another device, on every machine


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
    assert plain.images == ((image,), (image,), (other,))
    assert plain.prompt_lengths.tolist() == [2, 2, 1]
    assert shared.input_ids.tolist() == [[10, 11, 1, 2], [20, 5, 99, 99]]
    assert torch.equal(shared.attention_mask, tree_mask(torch.tensor([[0, 0, 1, 1], [0, 1, -1, -1]])))
    assert shared.images == ((image,), (other,))
    assert shared.prompt_lengths.tolist() == [2, 1]
    with pytest.raises(FrozenInstanceError):
        plain.images = ()  # type: ignore[misc]


@pytest.mark.parametrize("layout", [plain_rows, shared_rows])
def test_all_of_a_layout_is_on_the_device(layout) -> None:
    tensors = [value for value in vars(layout(draw(0), 0, META)).values() if isinstance(value, Tensor)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 7


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


def test_equal_neighbors_are_found_within_a_prompt_alone() -> None:
    a, b = (1, 2), (3,)
    completions = [completion(a, (7,)), completion(a, (7, 8)), completion(a, (7,)), completion(b, (7,))]
    assert distinct(completions) == ([0, 1, 3], [0, 1, 0, 2])
    assert micro_batches([completion(a, (7, 8))] * 9, 3, shared=True) == [list(range(9))]  # no more tokens than one


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
        part = [part[index] for index in distinct(part)[0]]
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
        completion((number,) * prompt, (sample,) * size)
        for number, (prompt, *sizes) in enumerate(rows)
        for sample, size in enumerate(sizes)
    ]
    assert micro_batches(completions, tokens, shared=shared) == expected
