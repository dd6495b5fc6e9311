"""Random Llamas made on the device, SVF with random factors, and what the device does at best.

Random factors cost the same per step as those of an SVD, which takes minutes for an 8B model. Imports nothing that a
machine with torch and transformers alone lacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from cost_model import SHAPES
from torch import Tensor
from transformers import LlamaForCausalLM

from t2.adapters.svd import Decomposition
from t2.adapters.svf import SVF
from t2.costs.gpus import GPU
from t2.models.language_model import LanguageModel
from t2.models.tiny import byte_tokenizer


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    device: torch.device
    small: bool  # sizes of a test instead of a measurement


def synchronized(device: torch.device) -> float:
    """The clock, once all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def clock(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    start = synchronized(device)
    run()
    return synchronized(device) - start


def random_llama(shape: str, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    """A Llama of a shape of the cost model with random weights, made on the device; nothing ends its completions."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            model = LlamaForCausalLM(SHAPES[shape])
    finally:
        torch.set_default_dtype(before)
    lm = LanguageModel(model, byte_tokenizer(), f"random:{shape}")
    lm.end_ids = frozenset()
    return lm


def inject(lm: LanguageModel, *, random_factors: bool, **settings: Any) -> SVF:
    """SVF on all matrices of the blocks, with an SVD or random factors."""
    svf = SVF(cache=False, progress=False, **settings)
    if not random_factors:
        svf.inject(lm.model, lm.source)
        return svf
    with patch("t2.adapters.svf_injection.decompose_all", random_decompositions):
        svf.inject(lm.model, lm.source)
    return svf


def random_decompositions(weights: Mapping[str, Tensor], **_: Any) -> Iterator[tuple[str, Decomposition]]:
    """Random U (n_out, R), s (R,) and Vh (R, n_in) for each weight on its device, in place of `decompose_all`."""
    for name, weight in weights.items():
        n_out, n_in = weight.shape
        rank, where = min(n_out, n_in), weight.device
        U, Vh = torch.randn(n_out, rank, device=where), torch.randn(rank, n_in, device=where)
        yield name, Decomposition(U / rank, torch.ones(rank, device=where), Vh / rank)


def random_state(svf: SVF, spread: float, seed: int = 0) -> dict[str, Tensor]:
    """z = 1 + spread N(0, 1), module -> (R,)."""
    noise = torch.Generator().manual_seed(seed)
    return {name: 1 + spread * torch.randn(s.shape, generator=noise) for name, s in svf.singular_values.items()}


def at_best(bench: Bench) -> GPU:
    """What the device does at best, measured: products of square matrices, and a copy."""
    size = 256 if bench.small else 8192

    def flops(dtype: torch.dtype) -> float:
        a = torch.randn(size, size, device=bench.device).to(dtype)
        return 2 * size**3 / _best(lambda: a @ a, bench.device)

    block = torch.empty(size * size, device=bench.device)
    copied = 2 * block.numel() * 4 / _best(lambda: block.clone(), bench.device)
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if cuda else "CPU"
    total = torch.cuda.get_device_properties(bench.device).total_memory if cuda else 0
    return GPU(name, flops(torch.bfloat16), flops(torch.float32), copied, total)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of five calls after one."""
    run()
    return min(clock(run, device) for _ in range(5))
