"""A module of experts whose parameters have rescaled singular values, in every mode of `t2.adapters.svf`.

    off           the module itself
    merged        the module itself, with W' in place of W
    factored      the forward pass of transformers' `grouped_mm`, with the products of `t2.adapters.fused`; of classes
                  that have no such pass, the module itself, with W'(z), in whose half precision small changes are lost

A token reaches its experts one row for each of them, sorted by expert, and its example is known by its place, since
(B, T, D) comes flattened. Not done here: routers, shared experts (which are Linears).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from t2.adapters.fused import FusedMatrices, Routed, grouped, has_grouped_forward
from t2.adapters.mode import Mode


class SVFExperts(nn.Module):
    """Takes the place of a module of experts."""

    def __init__(self, base: nn.Module, mode: Mode) -> None:
        """Wrap `base`; `matrices` are added for each of its parameters that is adapted."""
        super().__init__()
        self.base, self.mode = base, mode
        self.matrices = nn.ModuleDict()  # parameter -> FusedMatrices
        self.is_grouped = has_grouped_forward(base)

    def __getattr__(self, name: str) -> Any:
        """What the wrapped module has, for models that ask it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the wrapped module takes and returns."""
        if self.mode.name == "off":
            return self.base(*args, **kwargs)
        if self.mode.name == "factored" and self.is_grouped:
            return self._grouped(*args, **kwargs)
        weights = {leaf: self._weight(_of(matrices)) for leaf, matrices in self.matrices.items()}
        return torch.func.functional_call(self.base, weights, args, kwargs)

    def _weight(self, matrices: FusedMatrices) -> Tensor:
        """W' in the merged mode and, of the present z, in the factored one."""
        if self.mode.name == "factored":
            return matrices.compose(matrices.parametrization())
        assert matrices.merged_weight is not None, "the merged mode is active inside `with adapter.merged()`"
        return matrices.merged_weight

    def _grouped(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """(T, D), the experts (T, K) of each token and their weights (T, K) -> (T, D)."""
        base, count = self.base, top_k_index.shape[-1]
        experts, order = torch.sort(top_k_index.reshape(-1), stable=True)  # (S,) each, S = T K
        token = order // count
        number = len(getattr(base, "down_proj"))  # noqa: B009  # mypy knows no attributes of modules
        ends = torch.searchsorted(experts, torch.arange(1, number + 1, device=experts.device)).int()
        routed = Routed(experts, ends, self._examples(token, len(hidden_states)))
        y = self._linear("gate_up_proj" if base.has_gate else "up_proj", hidden_states[token], routed)
        y = base._apply_gate(y) if base.has_gate else base.act_fn(y)  # type: ignore[operator]
        y = self._linear("down_proj", y, routed)
        if base.has_post_expert_norm:
            y = base.post_expert_norm(y)  # type: ignore[operator]
        y = y * top_k_weights.reshape(-1)[order, None]
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        return y[back].view(len(hidden_states), count, -1).sum(dim=1).to(hidden_states.dtype)

    def _linear(self, leaf: str, x: Tensor, routed: Routed) -> Tensor:
        """The products with one parameter, and its bias; a parameter that is not adapted is as it was."""
        weight: Tensor = getattr(self.base, leaf)
        x = x.to(weight.dtype)
        if leaf in self.matrices:
            y: Tensor = self.matrices[leaf](x, routed)
        else:
            y = grouped(x, weight if self.base.is_transposed else weight.transpose(1, 2), routed.ends)
        if not self.base.has_bias:
            return y
        bias: Tensor = getattr(self.base, f"{leaf}_bias")
        return y + bias[routed.experts]

    def _examples(self, token: Tensor, total: int) -> Tensor | None:
        """The state of each token (S,) out of those of `per_example`; None with one for all."""
        if not self.mode.per_example:
            return None
        one = _of(next(iter(self.matrices.values())))
        assert one.example_scales is not None, "per-example scales are active inside `with per_example(...)`"
        index = self.mode.index
        count = len(one.example_scales) if index is None else len(index)
        if total % count:
            raise ValueError(
                f"The experts see {total} tokens, which are not those of {count} examples of one length. Use "
                "pass2=merged and generation.mode=merged."
            )
        example = token // (total // count)
        return example if index is None else index.to(token.device)[example]


def _of(module: nn.Module) -> FusedMatrices:
    assert isinstance(module, FusedMatrices), "the only kind that is added"
    return module
