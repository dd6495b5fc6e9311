"""Completions of random tokens for tests of packing."""

from __future__ import annotations

import torch

from t2.types import Completion


def completion(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Completion:
    return Completion(prompt, tokens, (0.0,) * len(tokens), "", "stop")


def draw(seed: int, prompts: tuple[int, ...] = (7, 3, 12), samples: tuple[int, ...] = (5, 1, 9, 2)) -> list[Completion]:
    """Unequal prompts and answers, one of them a single (stop) token."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    heads = [ids(length) for length in prompts]
    return [completion(head, ids(length)) for head in heads for length in samples]
