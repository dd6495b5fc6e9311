"""Mean hidden states of bare prompts: what a model makes of a text before it is asked anything.

    prompt ids t1 t2 . . tT  ->  decoder blocks 1 . . L  ->  mean over t2 . . tT of the outputs of block L

The prompt is tokenized as it is: no chat template, no instruction, no system message, no image. The forward ends after
the last block that is asked for, and there are no logits. The first token is left out of the mean where there are
others: models put states of a far larger norm there, whatever the token is (attention sinks, arXiv 2309.17453), and
those would outweigh all else. Nothing here knows what the means are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from t2.adapters.targets import decoder_blocks
from t2.models.language_model import LanguageModel

BATCH_TOKENS = 2048  # of one forward, padding included


class _Enough(Exception):
    """Ends a forward after the last block that is asked for."""


def check_layer(lm: LanguageModel, layer: int) -> None:
    """Raise ValueError unless the model has a decoder block with this number; the first is 1."""
    blocks = len(decoder_blocks(lm.model)[1])
    if not 1 <= layer <= blocks:
        raise ValueError(f"layer is {layer}, and {lm.source} has the decoder blocks 1 to {blocks}.")


@torch.no_grad()
def mean_states(lm: LanguageModel, prompts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """The mean outputs of the given decoder blocks for each prompt, (B, L, D) fp32 on the CPU.

    The adapter's present mode is used. Rows are padded at the right, where the causal mask hides it.

    Raises:
        ValueError: a prompt without a token or longer than the context, no layer, or one that the model does not have.
    """
    if not layers:
        raise ValueError("There are no layers to read. Give at least one.")
    for layer in layers:
        check_layer(lm, layer)
    ids = [_ids(lm, prompt) for prompt in prompts]
    width = int(lm.model.config.get_text_config().hidden_size)
    means = torch.zeros(len(ids), len(layers), width)
    for batch in _batches([len(row) for row in ids]):
        means[batch] = _read(lm, [ids[index] for index in batch], layers).cpu()
    return means


def _ids(lm: LanguageModel, prompt: str) -> list[int]:
    """The tokens of a bare prompt."""
    ids: list[int] = lm.tokenizer(prompt)["input_ids"] if prompt.strip() else []
    if not ids:
        raise ValueError("The prompt is empty, so it has no hidden states. Give a question.")
    if len(ids) > lm.context_length:
        raise ValueError(
            f"The prompt has {len(ids)} tokens, and the context of {lm.source} is {lm.context_length}. Shorten it. It "
            f"begins {prompt[:60]!r}."
        )
    return ids


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the prompts of each forward, longest first, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        size = max(1, BATCH_TOKENS // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _read(lm: LanguageModel, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> Tensor:
    """The means of one batch, (n, L, D) fp32."""
    longest = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[lm.pad_id] * (longest - len(row))] for row in rows], device=lm.device)  # (n, S)
    lengths = torch.tensor([len(row) for row in rows], device=lm.device)
    positions = torch.arange(longest, device=lm.device).expand_as(input_ids)
    counts = (positions < lengths[:, None]) & ((positions > 0) | (lengths[:, None] == 1))  # (n, S)
    shares = counts.float() / counts.sum(dim=1, keepdim=True)
    found: dict[int, Tensor] = {}

    def keep(layer: int, states: Tensor) -> None:
        found[layer] = torch.einsum("ns,nsd->nd", shares.to(states.device), states.float()).to(shares.device)

    with _reading(decoder_blocks(lm.model)[1], layers, keep), suppress(_Enough):
        lm.hidden_states(input_ids, torch.ones_like(input_ids), positions)
    return torch.stack([found[layer] for layer in layers], dim=1)


@contextmanager
def _reading(blocks: nn.ModuleList, layers: Sequence[int], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block `keep` gets the outputs (n, S, D) of the layers, and the forward ends after the last of them."""

    def hook(layer: int) -> Callable[[nn.Module, object, Tensor | tuple[Tensor, ...]], None]:
        def read(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            keep(layer, output if isinstance(output, Tensor) else output[0])
            if layer == max(layers):
                raise _Enough

        return read

    handles = [blocks[layer - 1].register_forward_hook(hook(layer)) for layer in sorted(set(layers))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
