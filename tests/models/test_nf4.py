"""NF4 by bitsandbytes, on a CPU: the matrix that is decomposed is the one that runs. Needs bitsandbytes."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from tiny_models import adapt, logits, random_state

from t2.models.nf4 import NF4Linear
from t2.models.quantized_checkpoints import adopt_quantized
from t2.models.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: make test-nf4"
)
W = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))


def test_it_takes_half_a_byte_a_number() -> None:
    layer = NF4Linear.of(torch.randn(128, 1024), None)
    assert 0.51 < layer.stored_bytes / (128 * 1024) < 0.53  # the code of the scales' scales is 1 KB
    error = (NF4Linear.of(W, None).dequantized() - W).norm() / W.norm()
    assert 0.05 < float(error) < 0.12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapted_model_is_its_base_at_first_and_learns(dtype: str) -> None:
    lm = tiny_model("llama_bias", quantization="nf4", dtype=dtype, hidden_size=64)
    assert (lm.quantization, str(lm.dtype)) == ("nf4", f"torch.{dtype}")
    base, ids = logits(lm), torch.arange(8)[None]
    svf = adapt(lm, spectrum="top", rank=4)
    assert torch.equal(logits(lm), base)
    svf.load({name: z.clamp(0.5, 1.5) for name, z in svf.state().items()})
    lm.model(ids).logits.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in svf.trainable())
    with svf.disabled():
        assert torch.equal(logits(lm), base)


def test_z_scales_singular_values_of_the_dequantized_matrix() -> None:
    lm = tiny_model(quantization="nf4", hidden_size=64)
    dense = copy.deepcopy(lm)
    svf = adapt(lm)
    svf.load(state := random_state(svf))
    for name, layer in svf.layers.items():
        W_dense = layer.base.dequantized()
        U, s, Vh = torch.linalg.svd(W_dense, full_matrices=False)
        linear = torch.nn.Linear(W_dense.shape[1], W_dense.shape[0], bias=False)
        linear.weight.data = U @ torch.diag(s * state[name]) @ Vh
        dense.model.set_submodule(name, linear)
    torch.testing.assert_close(logits(lm), logits(dense), rtol=1e-3, atol=1e-3)


def test_linears_of_a_checkpoint_are_taken_as_they_are() -> None:
    import bitsandbytes

    lm = tiny_model(hidden_size=64)
    lm.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    for name, module in list(lm.model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "layers" in name:
            own = bitsandbytes.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
            )
            own.load_state_dict(module.state_dict())
            lm.model.set_submodule(name, own.to("cpu"))
    before = logits(lm)
    adopt_quantized(lm.model)
    assert lm.quantization == "nf4"
    torch.testing.assert_close(logits(lm), before, rtol=1e-4, atol=1e-4)
