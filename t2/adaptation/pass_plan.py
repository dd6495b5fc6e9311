"""How the second pass is cheapest: which groups of equal mixtures are merged, and which go into row batches.

Merging composes every adapted matrix, and its forwards then cost what the base model's do. Rows compose nothing, but
each forward multiplies with two factors instead of one matrix. Which is cheaper depends on the model, the machine and
the batch, so both are timed once on the model itself (`measure`), and `plan` weighs them.

Forwards are taken to cost `step(rows)` while decoding and a constant per token in the prefill; how attention grows with
the context is left out, as it is the same in both. Nothing here generates.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import dense_weight
from t2.models.language_model import LanguageModel

DECODE_ROWS = (1, 8, 32)  # batch sizes that `measure` times
PREFILL_TOKENS = 64
ROUNDS = 3  # the faces take turns, and the fastest round counts: whatever disturbs a timing makes it longer


@dataclass(frozen=True)
class ForwardCosts:
    """What forwards cost in one face, in seconds."""

    decode: tuple[tuple[int, float], ...]  # (rows, seconds of a forward with one token each), by rows, two at least
    prefill_token: float

    def step(self, rows: int) -> float:
        """Decode one token of each row: linear between the measured sizes and beyond them."""
        spans = list(pairwise(self.decode))
        (low, start), (high, end) = next((span for span in spans if rows <= span[1][0]), spans[-1])
        return start + (end - start) * (rows - low) / (high - low)

    def prefill(self, tokens: float) -> float:
        """Read prompts of so many tokens together."""
        return self.step(1) + self.prefill_token * (tokens - 1)


@dataclass(frozen=True)
class Costs:
    """What generation costs on one model, in seconds: a merge of all matrices, and forwards in both faces."""

    merge: float
    merged: ForwardCosts
    rows: ForwardCosts


@dataclass(frozen=True)
class Plan:
    """Numbers of the groups that are each answered under their merged weights, and of those that share row batches."""

    merged: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What an example takes: prompt tokens on average, and the tokens of each of its answers.

    `batch_rows` bounds the answers that are decoded at once. How long they will be is not known before, and half the
    budget is a good guess: with SmolLM2's costs such a plan takes at most 6 % longer than the best one where answers
    use all of it, and 5 % where they use a quarter. A plan for the whole budget takes up to 18 % longer there.
    """

    prompt_tokens: float
    new_tokens: int
    samples: int
    batch_rows: int

    def seconds(self, prompts: int, forward: ForwardCosts) -> float:
        """Answer so many prompts, in as many batches as they need."""
        size = max(1, self.batch_rows // self.samples)
        full, rest = divmod(prompts, size)
        return full * self._batch(size, forward) + (self._batch(rest, forward) if rest else 0.0)

    def _batch(self, prompts: int, forward: ForwardCosts) -> float:
        steps = (self.new_tokens - 1) * forward.step(prompts * self.samples)
        return forward.prefill(prompts * self.prompt_tokens) + steps


def plan(sizes: Sequence[int], costs: Costs, work: Work, *, base: int | None = None) -> Plan:
    """Divide groups of `sizes` prompts: the largest are merged, as many as pay, and the rest go into rows.

    `base` is the number of the group that wears the base model, which needs no merge.
    """
    by_size = sorted((g for g in range(len(sizes)) if g != base), key=lambda g: -sizes[g])
    spent = [0.0, *accumulate(costs.merge + work.seconds(sizes[g], costs.merged) for g in by_size)]
    left = [sum(sizes[g] for g in by_size)]
    for group in by_size:
        left.append(left[-1] - sizes[group])
    candidates = {}
    for alone in (False, True) if base is not None else (False,):
        beside = 0.0 if base is None or not alone else work.seconds(sizes[base], costs.merged)
        joined = 0 if base is None or alone else sizes[base]
        for merged, seconds in enumerate(spent):
            candidates[alone, merged] = seconds + beside + work.seconds(left[merged] + joined, costs.rows)
    alone, merged = min(candidates, key=candidates.__getitem__)
    chosen = {*by_size[:merged], *([base] if base is not None and alone else [])}
    return Plan(
        merged=tuple(sorted(chosen)),
        rows=tuple(group for group in range(len(sizes)) if group not in chosen),
    )


@torch.no_grad()
def measure(lm: LanguageModel, adapter: SVF, dtype: torch.dtype | None = None) -> Costs:
    """Time a merge and forwards of `lm` in both faces, in a second or two for a small model; `dtype` as in `merged`."""
    shapes = [(1, PREFILL_TOKENS), *((rows, 1) for rows in DECODE_ROWS)]
    ones = {name: torch.ones(1, len(s)) for name, s in adapter.singular_values.items()}
    merged, rows = [], []
    for _ in range(ROUNDS):
        with adapter.disabled() if dtype is None else adapter.merged({}, dtype=dtype):
            merged.append([_forward_seconds(lm, *shape) for shape in shapes])
        with adapter.rows(ones) as select:
            timed = []
            for shape in shapes:
                select(torch.zeros(shape[0], dtype=torch.long, device=lm.device))
                timed.append(_forward_seconds(lm, *shape))
            rows.append(timed)
    return Costs(_merge_seconds(adapter, lm.device), _forward_costs(merged), _forward_costs(rows))


def _forward_costs(rounds: Sequence[Sequence[float]]) -> ForwardCosts:
    prefill, *decode = (min(seconds) for seconds in zip(*rounds, strict=True))
    # Not below zero, where the machine was busy during the shorter of the two.
    slope = max(0.0, prefill - decode[0]) / (PREFILL_TOKENS - 1)
    return ForwardCosts(tuple(zip(DECODE_ROWS, decode, strict=True)), slope)


def _forward_seconds(lm: LanguageModel, rows: int, tokens: int) -> float:
    ids = torch.zeros(rows, tokens, dtype=torch.long, device=lm.device)
    return _seconds(partial(lm.model, input_ids=ids, use_cache=False, logits_to_keep=1), lm.device)


def _merge_seconds(adapter: SVF, device: torch.device) -> float:
    """Compose one matrix of each shape, and count how many there are."""
    layers = {tuple(dense_weight(layer.base).shape): layer for layer in adapter.layers.values()}
    counts = Counter(tuple(dense_weight(layer.base).shape) for layer in adapter.layers.values())
    total = 0.0
    for shape, layer in layers.items():
        z = torch.ones(min(shape), device=device)
        total += counts[shape] * min(_seconds(partial(layer.compose, z), device) for _ in range(ROUNDS))
    return total


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
