"""One SVF layer with random weights, and random numbers, for tests of layers."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.mode import Mode
from t2.adapters.parametrizations import make_parametrization
from t2.adapters.svd import decompose
from t2.adapters.svf_linear import SVFLinear, dense_weight


def layer_of(
    n_out: int, n_in: int, *, conv: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0
) -> SVFLinear:
    generator = torch.Generator().manual_seed(seed)
    base = Conv1D(n_out, n_in) if conv else nn.Linear(n_in, n_out)
    for parameter in base.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    parts = decompose(dense_weight(base.to(dtype)))
    return SVFLinear(base, parts, make_parametrization("direct", parts.s, seed=0), Mode())


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
