"""Layouts of completions in the rows of one forward pass: one row each, or one row per prompt under a tree mask.

    plain     prompt a1 a2 a3 .        a row per completion, padded at the right, where the causal mask hides it
              prompt b1 b2 . .

    shared    prompt a1 a2 a3 b1 b2    a row per prompt; positions of each completion restart after the prompt

    tree mask, who attends to whom     p1 p2 a1 a2 b1 b2
                                    p1  x
                                    p2  x  x
                                    a1  x  x  x
                                    a2  x  x  x  x
                                    b1  x  x        x      b1 does not see a1, a2: the numbers are those of plain rows
                                    b2  x  x        x  x

For G samples of S tokens after a prompt of P, shared rows take P + G S tokens instead of G (P + S). A completion's
last token predicts nothing and is left out of both. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2.types import Completion, LazyImage


@dataclass(frozen=True)
class Layout:
    """Rows for a model, and the position in them at which each of the L completion tokens is predicted."""

    input_ids: Tensor  # (N', S), N' rows
    attention_mask: Tensor  # (N', S) of ones, or (N', 1, S, S) bool: whether the first attends to the second
    position_ids: Tensor  # (N', S)
    row: Tensor  # (L,)
    column: Tensor  # (L,)
    targets: Tensor  # (L,)
    lengths: tuple[int, ...]  # completion tokens of each completion, in their order; sums to L
    images: tuple[tuple[LazyImage, ...], ...]  # of each row
    prompt_lengths: Tensor  # (N',) tokens of each row that are its prompt, those of a prefix left out


def plain_rows(completions: Sequence[Completion], pad_id: int, device: torch.device) -> Layout:
    """One row per completion."""
    rows = [torch.tensor(c.prompt_ids + c.token_ids[:-1]) for c in completions]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    columns = [torch.arange(len(c.token_ids)) + len(c.prompt_ids) - 1 for c in completions]
    return _layout(
        completions,
        input_ids,
        torch.ones_like(input_ids),  # the causal mask hides the padding, and another mask costs time
        torch.arange(input_ids.shape[1]).expand_as(input_ids),
        torch.arange(len(rows)).repeat_interleave(torch.tensor([len(column) for column in columns])),
        torch.cat(columns),
        tuple(c.images for c in completions),
        [len(c.prompt_ids) for c in completions],
        device,
    )


def shared_rows(completions: Sequence[Completion], pad_id: int, device: torch.device) -> Layout:
    """One row per run of completions with the same prompt."""
    groups = group_by_prompt(completions)
    rows, positions, columns, branches = [], [], [], []
    for group in groups:
        prompt = completions[group[0]].prompt_ids
        pieces, offsets, numbers = [torch.tensor(prompt)], [torch.arange(len(prompt))], [torch.zeros(len(prompt))]
        start = len(prompt)
        for number, index in enumerate(group, start=1):
            inputs = completions[index].token_ids[:-1]
            pieces.append(torch.tensor(inputs, dtype=torch.long))
            offsets.append(torch.arange(len(inputs)) + len(prompt))
            numbers.append(torch.full((len(inputs),), number))
            # The first token is predicted at the prompt's end, the others at their predecessors.
            columns.append(torch.cat([torch.tensor([len(prompt) - 1]), torch.arange(len(inputs)) + start]))
            start += len(inputs)
        rows.append(torch.cat(pieces))
        positions.append(torch.cat(offsets))
        branches.append(torch.cat(numbers))
    per_row = torch.tensor([sum(len(completions[index].token_ids) for index in group) for group in groups])
    branch = pad_sequence(branches, batch_first=True, padding_value=-1)  # (N', S): 0 prompt, k completion, -1 padding
    return _layout(
        completions,
        pad_sequence(rows, batch_first=True, padding_value=pad_id),
        tree_mask(branch),
        pad_sequence(positions, batch_first=True),
        torch.arange(len(rows)).repeat_interleave(per_row),
        torch.cat(columns),
        tuple(completions[group[0]].images for group in groups),
        [len(completions[group[0]].prompt_ids) for group in groups],
        device,
    )


def with_prefix(layout: Layout, shared: int) -> Layout:
    """The layout with `shared` cached tokens before every row, which all its tokens attend to (`t2.policy.prefix`)."""
    mask = layout.attention_mask  # (N', 1, S, S)
    before = mask.new_ones(*mask.shape[:-1], shared)
    return replace(layout, attention_mask=torch.cat([before, mask], dim=-1), position_ids=layout.position_ids + shared)


def tree_mask(branch: Tensor) -> Tensor:
    """Which positions attend to which: (N', S) branch numbers -> (N', 1, S, S) bool.

    A position attends to itself and to earlier ones of its own branch or of the prompt (branch 0). Padding (-1) attends
    to padding, so that no row of the softmax is empty.
    """
    key, query = branch[:, None, None, :], branch[:, None, :, None]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    return causal & ((key == query) | ((key == 0) & (query > 0)))


def sampled_log_probs(completions: Sequence[Completion], like: Tensor) -> Tensor:
    """The log-probs kept at sampling, padded with zeros to the shape, type and device of `like` (N, T)."""
    padded = pad_sequence([torch.tensor(c.log_probs, dtype=like.dtype) for c in completions], batch_first=True)
    assert padded.shape == like.shape, f"{tuple(padded.shape)} against {tuple(like.shape)}"
    return padded.to(like.device)


def group_by_prompt(completions: Sequence[Completion]) -> list[list[int]]:
    """Runs of consecutive completions of the same prompt, as lists of indices."""
    groups: list[list[int]] = []
    for index, completion in enumerate(completions):
        first = completions[groups[-1][0]] if groups else None
        if first is not None and (first.prompt_ids, first.images) == (completion.prompt_ids, completion.images):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def distinct(completions: Sequence[Completion]) -> tuple[list[int], list[int]]:
    """The first of each run of neighbors with one prompt that are token for token the same, and for each completion
    its index among those.

    Samples of a short answer repeat each other, and what is computed for one holds for all.
    """
    firsts: list[int] = []
    where = [0] * len(completions)
    for group in group_by_prompt(completions):
        seen: dict[tuple[int, ...], int] = {}
        for index in group:
            tokens = completions[index].token_ids
            if tokens not in seen:
                seen[tokens] = len(firsts)
                firsts.append(index)
            where[index] = seen[tokens]
    return firsts, where


def micro_batches(completions: Sequence[Completion], tokens: int, *, shared: bool) -> list[list[int]]:
    """Split indices into micro-batches of at most `tokens` tokens, padding included (but at least one row).

    Rows of similar length share a micro-batch, so that little is padding. With `shared`, a prompt with several
    completions has micro-batches of its own, several where they exceed the budget.
    """
    rows = [[index] for index in range(len(completions))]
    alone: list[list[int]] = []
    if shared:
        parts = [_within(completions, group, tokens) for group in group_by_prompt(completions)]
        rows = [group[0] for group in parts if len(group) == 1]
        alone = [part for group in parts if len(group) > 1 for part in group]  # together they would be one row again
    size = {id(row): row_tokens(completions, row) for row in rows}
    batches: list[list[list[int]]] = []
    for row in sorted(rows, key=lambda row: -size[id(row)]):
        if batches and size[id(batches[-1][0])] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return [*alone, *([index for row in batch for index in row] for batch in batches)]


def _within(completions: Sequence[Completion], group: list[int], tokens: int) -> list[list[int]]:
    """One prompt's completions, cut into rows of at most `tokens` tokens."""
    parts: list[list[int]] = [[]]
    for index in group:
        if parts[-1] and row_tokens(completions, [*parts[-1], index]) > tokens:
            parts.append([])
        parts[-1].append(index)
    return parts


def row_tokens(completions: Sequence[Completion], row: Sequence[int]) -> int:
    """The tokens of a row that holds the completions with these indices after their one prompt, each only once."""
    different = {completions[index].token_ids for index in row}
    return len(completions[row[0]].prompt_ids) + sum(len(tokens) - 1 for tokens in different)


def _layout(
    completions: Sequence[Completion],
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    row: Tensor,
    column: Tensor,
    images: tuple[tuple[LazyImage, ...], ...],
    prompt_lengths: Sequence[int],
    device: torch.device,
) -> Layout:
    """Move everything to the device at once and add the targets."""
    targets = torch.tensor([token for c in completions for token in c.token_ids])
    assert row.shape == column.shape == targets.shape, f"{row.shape}, {column.shape}, {targets.shape}"
    return Layout(
        input_ids.to(device),
        attention_mask.to(device),
        position_ids.to(device),
        row.to(device),
        column.to(device),
        targets.to(device),
        lengths=tuple(len(c.token_ids) for c in completions),
        images=images,
        prompt_lengths=torch.tensor(prompt_lengths, device=device),
    )
