"""Checkpoints that are quantized already: modules as libraries make them, here without the libraries."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_models import adapt, tiny
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GptOssConfig

from t2.models.int8 import Int8Linear
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.quantized_checkpoints import PackedLinear, adopt_quantized, loading_options
from t2.models.tiny import byte_tokenizer


class Gptq(nn.Module):
    """As gptqmodel's: integers that are no parameters, and `dequantize_weight` (n_in, n_out)."""

    def __init__(self, linear: nn.Linear, off: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias, self.off = linear.in_features, linear.out_features, None, off
        self.step = float(linear.weight.detach().abs().max()) / 7
        self.register_buffer("qweight", (linear.weight.detach() / self.step).round().to(torch.int8))

    def dequantize_weight(self) -> Tensor:
        return self.qweight.T.float() * self.step

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize_weight().T + self.off)


class Linear8bitLt(nn.Module):
    """As bitsandbytes's: 127 is the largest of a row, SCB what it stands for."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        own = Int8Linear.of(linear.weight.detach(), None)
        self.weight = nn.Parameter(own.weight.data, requires_grad=False)
        self.state, self.bias = SimpleNamespace(SCB=own.scale * 127, CB=own.weight.data), None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float() * (self.state.SCB / 127)[:, None])


class Weight(nn.Parameter):
    """As torchao's: in a plain Linear, a tensor that dequantizes itself."""

    def dequantize(self) -> Tensor:
        return self.data


Weight.__module__ = "torchao.quantization"


def of_torchao(linear: nn.Linear) -> nn.Linear:
    linear.weight = Weight(linear.weight.data, requires_grad=False)
    return linear


def checkpoint(make: Any, method: str, where: str = "layers") -> LanguageModel:
    lm = tiny()
    lm.model.config.quantization_config = {"quant_method": method}
    for name, module in list(lm.model.named_modules()):
        if isinstance(module, nn.Linear) and where in name:
            lm.model.set_submodule(name, make(module))
    return lm


@pytest.mark.parametrize(
    ("make", "kind"), [(Gptq, PackedLinear), (of_torchao, PackedLinear), (Linear8bitLt, Int8Linear)]
)
def test_linears_of_libraries_are_adapted(make: Any, kind: type[nn.Module]) -> None:
    lm, ids = checkpoint(make, "gptq"), torch.arange(8)[None]
    expected = lm.model(ids).logits
    adopt_quantized(lm.model)
    assert isinstance(lm.model.model.layers[0].mlp.up_proj, kind)
    assert lm.quantization == ("gptq" if kind is PackedLinear else "int8")
    svf = adapt(lm, spectrum="top", rank=4)
    assert all(isinstance(layer.base, kind) for layer in svf.layers.values())
    torch.testing.assert_close(lm.model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert svf.coverage is not None
    assert svf.coverage.share == 1.0
    lm.model(ids).logits.square().sum().backward()
    assert all(bool((p.grad != 0).all()) for p in svf.trainable())


def test_what_does_not_compute_its_own_weight_is_refused() -> None:
    lm = checkpoint(lambda module: Gptq(module, off=0.3), "awq")
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj \(Gptq\) computes something else than its"):
        adopt_quantized(lm.model)


def test_what_nobody_can_dequantize_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Gptq, "dequantize_weight")
    lm = checkpoint(Gptq, "eetq")
    with pytest.raises(ValueError, match=r"\(eetq\), and t2 cannot dequantize .*qweight \(a Gptq\)\. Allowed"):
        adopt_quantized(lm.model)


class Float8Linear(nn.Linear):
    """As transformers' for FP8 checkpoints: a number is a byte, and its scale is elsewhere."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


class QLinear(nn.Linear):
    """As quanto's: the weight looks dense, and the forward does something else."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


@pytest.mark.parametrize("make", [Float8Linear, QLinear])
@pytest.mark.parametrize("where", ["layers", "mlp"])
def test_fp8_and_linears_that_multiply_in_their_own_way_are_refused(make: Any, where: str) -> None:
    """Where only some of them are, the others would be adapted, and those left out in silence."""
    lm = checkpoint(make, "fp8", where)
    with pytest.raises(ValueError, match=rf"\(fp8\), and t2 cannot dequantize .*_proj.weight \(a {make.__name__}\)"):
        adopt_quantized(lm.model)


def test_what_gptqmodel_is_asked_for() -> None:
    """Kernels in plain torch; the real thing is `test_gptqmodel`."""
    config = tiny().model.config
    config.quantization_config = {"quant_method": "gptq", "bits": 4, "desc_act": True}
    told = loading_options(config)["config"].quantization_config
    assert told == {"quant_method": "gptq", "bits": 4, "backend": "torch", "desc_act": False}
    config.quantization_config = {"quant_method": "awq", "bits": 4, "version": "gemv"}
    with pytest.raises(ValueError, match="AWQ in the format gemv; t2 reads gemm"):
        loading_options(config)


def test_an_architectures_own_linears_are_not_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QLinear, "__module__", "transformers.models.falcon.modeling_falcon")
    adopt_quantized(checkpoint(QLinear, "gptq", "mlp").model)


def test_a_dense_model_stays_as_it_is() -> None:
    lm = tiny()
    before = list(lm.model.modules())
    adopt_quantized(lm.model)
    assert list(lm.model.modules()) == before


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4 = torch.cat([FP4, -FP4])  # E2M1: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0)


def test_mxfp4_is_dense_once_it_is_loaded(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    config = GptOssConfig(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=256,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    expected = {}
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        stack, n_in, n_out = weights.pop(name).shape
        codes = torch.randint(16, (stack, n_out, n_in), generator=draw)
        powers = torch.randint(120, 124, (stack, n_out, n_in // 32), generator=draw)
        dense = FP4[codes] * torch.exp2(powers.float() - 127).repeat_interleave(32, dim=-1)
        expected[name] = dense.transpose(1, 2)
        pairs = codes.view(stack, n_out, n_in // 32, 16, 2)
        weights[f"{name}_blocks"] = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)
        weights[f"{name}_scales"] = powers.to(torch.uint8)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    told = loading_options(AutoConfig.from_pretrained(tmp_path))["quantization_config"]
    assert told.dequantize, "also where a GPU has kernels for it"
    lm = load_model(str(tmp_path), dtype="float32")
    assert lm.quantization == "none"
    found = dict(lm.model.named_parameters())
    assert len(expected) == 2
    for name, dense in expected.items():
        assert torch.equal(found[name], dense)
