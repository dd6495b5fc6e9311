"""The frozen parts of an SVF layer as parameters, since torch's `fully_shard` shards parameters and no buffers.

    fp32             base.weight W, input_factor Vh, separate_factor U s
    bf16 and fp16    joint [W | U s], input_factor Vh; W is a view of the joint, taken anew in each forward pass

`fully_shard` puts a parameter's whole numbers into the module before a block's forward, and frees them after it. The
view shares their storage, which is filled again before the backward pass. Not done here: sharding
(`t2.training.sharded`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.adapters.svf_linear import SVFLinear
from t2.models.quantized_linear import refuse_quantized

JOINT = "joint"


def hold_as_parameters(layer: SVFLinear) -> None:
    """Make the frozen factors of `layer` parameters without a gradient; modes that need dense weights end.

    The parameter `joint` is the joint weight (n_out, n_in + R), for a Conv1D transposed, as it lies in memory.

    Raises:
        ValueError: the base is quantized.
    """
    refuse_quantized(layer.base, "trainer=fsdp shards dense ones. Use trainer=ddp, or base_model.quantization=none.")
    layer.is_sharded = True
    _become_parameter(layer, "input_factor", layer.input_factor)
    if layer.joint_weight is None:
        assert layer.separate_factor is not None, "one of the two is there"
        _become_parameter(layer, "separate_factor", layer.separate_factor)
        return
    joint = layer.joint_weight.T if isinstance(layer.base, Conv1D) else layer.joint_weight
    del layer._buffers["joint_weight"], layer.base._parameters["weight"]
    layer.register_parameter(JOINT, nn.Parameter(joint, requires_grad=False))
    _take_views(layer)
    layer.register_forward_pre_hook(_take_views)


def _become_parameter(layer: SVFLinear, name: str, tensor: Tensor) -> None:
    del layer._buffers[name]
    layer.register_parameter(name, nn.Parameter(tensor.contiguous(), requires_grad=False))


def _take_views(layer: nn.Module, *_: Any) -> None:
    """Set the joint weight and the weight of the base to views of the parameter as it is now."""
    assert isinstance(layer, SVFLinear), "only its hook"
    joint: Tensor = getattr(layer, JOINT)
    layer.joint_weight = joint.T if isinstance(layer.base, Conv1D) else joint
    weight = layer.joint_weight[:, : layer.input_factor.shape[1]]
    layer.base.weight = weight.T if isinstance(layer.base, Conv1D) else weight
