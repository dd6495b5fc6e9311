"""SVF on a quantized base: z is about the matrix that runs, the base is exact, and nothing dense is kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_family import MAKERS
from safetensors.torch import load_file
from tiny_models import IDS, adapt, logits, random_state, same_states, stacked
from torch import Tensor, nn

from t2.adapters.mode import Mode
from t2.adapters.parametrizations import make_parametrization
from t2.adapters.svd import decompose
from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear
from t2.experts.export_hf import export_hf
from t2.experts.export_lora import export_lora, truncate
from t2.models.int8 import Int8Linear
from t2.models.language_model import LanguageModel
from t2.models.precision import Precision
from t2.models.quantized_linear import QuantizedLinear
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

TOP: dict[str, Any] = {"spectrum": "top", "rank": 4}
either_spectrum = pytest.mark.parametrize("settings", [{}, TOP], ids=["all", "top"])


def packed(dtype: str = "float32") -> LanguageModel:
    return tiny_model("llama_bias", quantization="int8", dtype=dtype)


def learnable_state(svf: SVF, seed: int = 0) -> dict[str, Tensor]:
    learnable = svf.learnable()
    return {name: torch.where(learnable[name], z, 1.0) for name, z in random_state(svf, seed).items()}


def dequantized(lm: LanguageModel) -> LanguageModel:
    """A copy whose quantized Linears of the blocks are dense."""
    dense = copy.deepcopy(lm)
    for name, module in list(dense.model.named_modules()):
        if isinstance(module, QuantizedLinear) and "layers" in name:
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            linear.weight, linear.bias = nn.Parameter(module.dequantized(), requires_grad=False), module.bias
            dense.model.set_submodule(name, linear)
    return dense


@either_spectrum
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_z_of_1_and_switched_off_are_the_quantized_base_bit_for_bit(dtype: str, settings: dict[str, Any]) -> None:
    lm = packed(dtype)
    base = logits(lm)
    svf = adapt(lm, **settings)
    assert torch.equal(logits(lm), base)
    svf.load(learnable_state(svf))
    assert not torch.equal(logits(lm), base)
    with svf.disabled():
        assert torch.equal(logits(lm), base)


@either_spectrum
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_those_of_the_dequantized_model(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    lm = packed()
    lm.model.to(dtype)
    dense = dequantized(lm)
    gradients = []
    for one in (lm, dense):
        svf = adapt(one, **settings)
        svf.load(learnable_state(svf))
        found = one.model(IDS).logits
        found.log_softmax(-1)[..., 7].sum().backward()
        gradients.append([found, *(p.grad for p in svf.trainable())])
    close = 1e-9 if dtype == torch.float64 else 2e-3
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected.to(got.dtype), rtol=close, atol=close * float(expected.abs().max()))


def test_a_step_of_z_below_the_spacing_of_bfloat16_changes_the_output() -> None:
    draw, step = torch.Generator().manual_seed(0), 1e-3
    base = Int8Linear.of(torch.randn(64, 64, generator=draw).bfloat16(), None)
    parts = decompose(base.dequantized().float())
    layer = SVFLinear(base, parts, make_parametrization("direct", parts.s, seed=0), Mode())
    x = torch.randn(512, 64, generator=draw).bfloat16()
    with torch.no_grad():
        before = layer(x).float()
        for parameter in layer.parametrization.parameters():
            parameter += step
        moved, wanted = layer(x).float() - before, step * before
    assert float((moved * wanted).sum() / wanted.square().sum()) == pytest.approx(
        1, abs=0.05
    )  # 0 if added to a rounded y


def test_each_example_has_its_own_z_and_a_state_comes_back() -> None:
    lm = packed()
    svf = adapt(lm, **TOP)
    states = [learnable_state(svf, seed) for seed in range(2)]
    expected = []
    for state in states:
        svf.load(state)
        expected.append(logits(lm, IDS[:1]))
        assert same_states(svf.state(), state)
    with svf.per_example(stacked(*states)) as select:
        select(torch.tensor([1, 0]))
        got = logits(lm, IDS[:1].expand(2, -1))
    torch.testing.assert_close(got, torch.cat(expected[::-1]), rtol=1e-4, atol=1e-4)


@either_spectrum
def test_nothing_dense_is_held(settings: dict[str, Any]) -> None:
    lm = packed()
    svf = adapt(lm, **settings)
    for layer in svf.layers.values():
        assert isinstance(layer, SVFLinear)
        assert isinstance(layer.base, Int8Linear)
        n_out, n_in = layer.base.shape
        k = layer.input_factor.shape[0]
        sizes = {
            name: one.numel() * one.element_size() for name, one in [*layer.named_buffers(), *layer.named_parameters()]
        }
        del sizes["base.bias"]
        numbers = [p.numel() for p in layer.parametrization.parameters()]
        assert sum(sizes.values()) == n_out * n_in + 4 * n_out + 4 * k * (n_out + n_in) + 4 * sum(numbers)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        lm.model(IDS)
    frozen = {one.data_ptr() for layer in svf.layers.values() for one in layer.buffers()}
    matrices = {layer.base.shape for layer in svf.layers.values()} | {
        layer.base.shape[::-1] for layer in svf.layers.values()
    }
    assert not [one for one in kept if tuple(one.shape) in matrices and one.data_ptr() not in frozen]


def test_merged_weights_are_refused_and_rollouts_are_factored() -> None:
    lm = packed()
    svf = adapt(lm, spread=0.2)
    with pytest.raises(ValueError, match=r"weights are int8 .*Use generation\.mode=factored"), svf.merged():
        pass
    with pytest.raises(ValueError, match="W' has no place in them"):
        list(svf.merged_weights())
    with pytest.raises(ValueError, match=r"quantized \(base_model\.quantization=int8\), and weights are merged"):
        HFGenerator(lm, svf, mode="merged")
    with pytest.raises(ValueError, match=r"generation\.dtype or generation=vllm"):
        Precision.of({"quantization": "int8"}, {"engine": {"dtype": "auto"}})
    generator = HFGenerator(lm, svf)
    assert not generator.merges
    sampling = Sampling(samples=2, max_new_tokens=4, temperature=0.0)
    own = generator.generate([Example("a")], sampling)
    assert generator.with_state(svf.state()).generate([Example("a")], sampling) == own


@pytest.mark.parametrize("name", ["lora", "random_basis"])
def test_adapters_that_need_dense_weights_say_so(name: str) -> None:
    lm = packed()
    with pytest.raises(ValueError, match=r"are int8 .*this adapter needs dense weights\. Use adapter=svf"):
        MAKERS[name](0).inject(lm.model, lm.source)


def test_coverage_counts_dense_numbers() -> None:
    coverage = adapt(packed(), modules="mlp").coverage
    assert coverage is not None
    assert (coverage.adapted, coverage.total) == (2 * 3 * 32 * 48, 2 * (3 * 32 * 48 + 2 * 32 * 32 + 2 * 32 * 16))
    assert "self_attn.q_proj.weight (not chosen)" in coverage.left


def test_steering_works_on_a_quantized_base() -> None:
    lm = packed()
    base, steering = logits(lm), MAKERS["steering"](0)
    steering.inject(lm.model, lm.source)
    assert torch.equal(logits(lm), base)


def test_a_lora_is_exported_and_whole_weights_are_not(tmp_path: Path) -> None:
    lm = packed()
    svf = adapt(lm, **TOP)
    svf.load(state := learnable_state(svf))
    with pytest.raises(ValueError, match=r"a folder of whole weights has no place.*\(to=lora\)"):
        export_hf(lm, svf, state, tmp_path / "hf", applied={})
    assert not (tmp_path / "hf").exists()
    export_lora(lm, svf, state, tmp_path / "lora", truncated=truncate(svf, state, None), applied={})
    name = "model.layers.0.mlp.up_proj"
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    A, B = (saved[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    change = svf.layers[name].compose(svf.layers[name].parametrization()) - svf.layers[name].base.dequantized()
    torch.testing.assert_close(B @ A, change, rtol=1e-4, atol=1e-5)
