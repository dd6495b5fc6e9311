"""Counts the tokens that go through a model: what a pass, a fit or a search costs whatever the machine does beside it.

A token counts each time that it enters the decoder, padding and prompts that are read again included; one whose keys
and values come out of a cache does not. Those of an answer that is taken from where it was kept count like those that
made it (`charge_forward_tokens`). A forward that ends after some blocks counts as a whole one. What an engine of
its own computes (vLLM) is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from t2.models.language_model import LanguageModel

_open: list[tuple[nn.Module, ForwardTokens]] = []  # counts that are going on, by the decoder


@dataclass
class ForwardTokens:
    """The number so far."""

    count: int = 0


@contextmanager
def count_forward_tokens(lm: LanguageModel | None) -> Iterator[ForwardTokens]:
    """Within the block the number goes up with every forward of the model; without a model it stays 0."""
    tokens = ForwardTokens()
    if lm is None:
        yield tokens
        return

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        # Embeddings (N, S, D) stand for ids (N, S) where images are among the tokens.
        tokens.count += int(ids.numel() if ids is not None else kwargs["inputs_embeds"][..., 0].numel())

    handle = lm.decoder.register_forward_pre_hook(add, with_kwargs=True)
    entry = (lm.decoder, tokens)
    _open.append(entry)
    try:
        yield tokens
    finally:
        _open[:] = [one for one in _open if one is not entry]
        handle.remove()


def charge_forward_tokens(lm: LanguageModel, count: int) -> None:
    """Add tokens to all counts of this model that are going on, of an answer that is taken from where it was kept."""
    for decoder, tokens in _open:
        if decoder is lm.decoder:
            tokens.count += count
