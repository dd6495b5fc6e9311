"""The pretended devices raise where CUDA would, and compute what the CPU computes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from pretend_device import pretend
from torch import Tensor, nn


def mixtures(x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """Operations that CUDA refuses, on x (2, 3) of cuda:0 and y (3,) of the CPU."""
    return {
        "elementwise": lambda: x + y,
        "product": lambda: x @ y,
        "concatenation": lambda: torch.cat([x, y[None]]),
        "linear": lambda: nn.functional.linear(y, x),
        "index of the other device": lambda: y[torch.tensor([0, 1], device="cuda")],
        "index_select": lambda: x.index_select(0, torch.tensor([0])),
        "two GPUs": lambda: x + torch.ones(3, device="cuda:1"),
        "in place": lambda: x.add_(y),
        "to numpy": lambda: x.numpy(),
    }


@pytest.mark.parametrize("name", mixtures(torch.ones(2, 3), torch.ones(3)))
def test_mixing_devices_raises(name: str) -> None:
    with pretend(2):
        mixed = mixtures(torch.ones(2, 3).to("cuda"), torch.ones(3))
        with pytest.raises((RuntimeError, TypeError), match=r"on the same device|numpy"):
            mixed[name]()


def test_what_cuda_allows_is_allowed_and_stays_on_its_device() -> None:
    with pretend(2):
        x = torch.arange(6.0, device="cuda:1").view(2, 3)
        made = [x + torch.tensor(1.0), 2 * x, x[torch.tensor([1])], x.T.contiguous(), x.bfloat16(), copy.deepcopy(x)]
        assert {one.device for one in [*made, x[0], torch.zeros_like(x), x.new_ones(2)]} == {torch.device("cuda:1")}
        assert (x.cpu().device, x.to("cuda").device, x.tolist()[1]) == (
            torch.device("cpu"),
            torch.device("cuda:0"),
            [3.0, 4.0, 5.0],
        )
    assert x.device == torch.device("cpu"), "outside there are no such devices"


def test_gradients_are_where_their_tensors_are() -> None:
    with pretend(2):
        x, layer = torch.ones(3, requires_grad=True), nn.Linear(3, 3).to("cuda:1")
        layer(x.to("cuda:1").to("cuda:0").to("cuda:1")).sum().backward()
        assert (x.grad.device, layer.weight.grad.device) == (torch.device("cpu"), torch.device("cuda:1"))
        adamw = torch.optim.AdamW(layer.parameters())
        adamw.step()
        assert adamw.state[layer.weight]["exp_avg"].device == torch.device("cuda:1")
