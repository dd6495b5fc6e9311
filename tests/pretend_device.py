"""Pretend CUDA devices: numbers are computed on the CPU, and mixing devices raises where CUDA would.

    with pretend(2):                       torch.device("cuda:0") and "cuda:1" exist
        x = torch.ones(3).to("cuda:1")     x.device is cuda:1, and its numbers are real

A device is a tag on a tensor's storage, so that views share it. A function mode reports tags, and takes devices out of
the arguments of factories and `to`, which a torch without CUDA refuses; a dispatch mode checks and tags all operations,
those of the backward pass included. As under CUDA, a 0-dim tensor of the CPU goes with every device, and an index may
be on the CPU. Not pretended: streams, memory, random numbers of a device, kernels that exist for one device only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
aten = torch.ops.aten
# A tensor's place is that of its first argument, whatever the others': copies, and indices, which may be on the CPU.
COPIES = (aten.copy_.default,)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


def place(tensor: Tensor) -> torch.device:
    """The device that a tensor pretends to be on."""
    tag: torch.device = getattr(torch.Tensor.untyped_storage(tensor), "pretends", CPU)
    return tag


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Tag a tensor's storage."""
    torch.Tensor.untyped_storage(tensor).pretends = device  # type: ignore[attr-defined]
    return tensor


def numbered(device: torch.device | str) -> torch.device:
    """`cuda` is `cuda:0`."""
    found = torch.device(device)
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


class _Move(torch.autograd.Function):
    """A copy on another device; its gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.source = place(x)
        return put(x.clone(memory_format=torch.preserve_format), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return put(gradient.clone(), ctx.source), None


class _Tags(TorchDispatchMode):
    """Checks that the tensors of every operation are on one device, and tags what it returns.

    `current` is where a tensor is made that is made of nothing, as inside `pad_sequence` or a backward formula.
    """

    current: torch.device = CPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "_foreach_" in func.name():  # its lists go item by item
            for index, made in enumerate(out if isinstance(out, list | tuple) else ()):
                put(made, _common(func, [one[index] for one in args if isinstance(one, list | tuple)]))
            return out
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        if func in COPIES:
            return out
        if func in INDEXED:
            given = [args[0], *(one for one in given if place(one) != CPU)]
        device = _common(func, given) if given else self.current
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and not any(one is other for other in given):
                put(one, device)
        return out


def _common(func: Any, tensors: list[Any]) -> torch.device:
    """The device of the tensors; a 0-dim one on the CPU has no say."""
    found = [one for one in tensors if isinstance(one, Tensor)]
    places = {place(one) for one in found if one.dim() or place(one) != CPU}
    if len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {', '.join(sorted(map(str, places)))} "
            f"(pretended, in {func.name()})"
        )
    return places.pop() if places else CPU


class _Reports(TorchFunctionMode):
    """Reports tags as devices, and turns moves and factories into their CPU forms."""

    def __init__(self, tags: _Tags) -> None:
        super().__init__()
        self.tags = tags

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if name == "__get__" and owner is torch.Tensor.device:
            return place(args[0])
        if name == "__get__" and owner is torch.Tensor.is_cuda:
            return place(args[0]).type == "cuda"
        if name in ("numpy", "__array__") and place(args[0]) != CPU:
            raise TypeError(f"can't convert {place(args[0])} device type tensor to numpy (pretended)")
        if name in ("cpu", "cuda"):
            return _moved(args[0], CPU if name == "cpu" else numbered("cuda"))
        if name in ("to", "type_as"):
            return _to(func, args, kwargs)
        if name == "_parse_to":
            return (
                None if (device := _asked(args, kwargs)) is None else device,
                *func(*_bare(args), **_bare(kwargs))[1:],
            )
        if func is Tensor.backward:
            return self._at(place(args[0]), lambda: self._backward(args[0]))
        device = _asked((), kwargs)
        inside = [place(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        out = self._at(max(inside, key=str, default=CPU), lambda: func(*args, **_bare(kwargs)))
        if name == "__deepcopy__":  # copies the storage, and no operation does it
            device = place(args[0])
        if device is not None and func is not torch.Generator:
            tree_map(lambda one: put(one, device) if isinstance(one, Tensor) else one, out)
        return out

    def _backward(self, loss: Tensor) -> None:
        """A handler runs without its mode, which the backward pass needs where it computes blocks again."""
        ones = torch.ones_like(loss)
        with self:
            _engine_run_backward((loss,), (ones,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    def _at(self, device: torch.device, run: Callable[[], Any]) -> Any:
        before, self.tags.current = self.tags.current, device
        try:
            return run()
        finally:
            self.tags.current = before


def _is_device(one: Any) -> bool:
    return isinstance(one, torch.device) or (isinstance(one, str) and one.split(":")[0] in ("cpu", "cuda"))


def _asked(args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device among the arguments of a move or a factory."""
    named = kwargs.get("device")
    found = [one for one in (*args, named) if _is_device(one)]
    if isinstance(named, int) and not isinstance(named, bool):
        return torch.device("cuda", named)
    return numbered(found[0]) if found else None


def _bare(arguments: Any) -> Any:
    """The arguments with every device replaced by the CPU."""
    if isinstance(arguments, dict):
        return {k: CPU if k == "device" and v is not None else v for k, v in arguments.items()}
    return tuple(CPU if _is_device(one) else one for one in arguments)


def _to(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    others = [one for one in args[1:] if isinstance(one, Tensor)]
    if isinstance(args[1] if len(args) > 1 else None, int):
        args = (args[0], torch.device("cuda", args[1]), *args[2:])
    device = place(others[0]) if others else _asked(args[1:], kwargs)
    cast: Tensor = func(args[0], *_bare(args[1:]), **_bare(kwargs))
    if cast is not args[0] and place(cast) != place(args[0]):
        put(cast, place(args[0]))
    return cast if device is None else _moved(cast, device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved: Tensor = tensor if place(tensor) == device else _Move.apply(tensor, device)  # type: ignore[no-untyped-call]
    return moved


@contextmanager
def pretend(devices: int = 1) -> Iterator[None]:
    """Within the block there are so many CUDA devices."""
    tags = _Tags()
    # Hooks of saved tensors run within an operation, where a tensor's device is not pretended.
    checks = patch.dict("torch.utils.checkpoint._allowed_determinism_checks_to_fns", default=lambda _: None)
    with patch("torch.cuda.device_count", lambda: devices), checks, _Reports(tags), tags:
        yield
