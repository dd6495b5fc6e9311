"""Injecting SVF: which matrices, once only, and the cache of decompositions."""

import pytest
import torch
from tiny_models import adapted, logits, original, tiny

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear

# Injection


@pytest.mark.parametrize("layers", [None, [1]], ids=["same layers", "other layers"])
def test_a_second_adapter_is_refused_and_changes_nothing(layers):
    lm, _ = adapted(layers=[0] if layers else None)
    before = logits(lm)
    with pytest.raises(ValueError, match=r"has an adapter already \(at model\.layers\.0"):
        SVF(layers=layers, cache=False).inject(lm.model, lm.source)
    assert torch.equal(logits(lm), before)


def test_an_unknown_map_is_an_error_before_any_model_is_seen():
    with pytest.raises(ValueError, match="Did you mean 'direct'"):
        SVF(parametrization="direkt")


def test_only_the_chosen_matrices_are_wrapped():
    lm, svf = adapted(modules=["q_proj", "mlp"], layers=[-1])
    wrapped = {name for name, module in lm.model.named_modules() if isinstance(module, SVFLinear)}
    names = ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert wrapped == set(svf.layers) == set(svf.state()) == {f"model.layers.1.{name}" for name in names}


def test_injection_keeps_its_decompositions_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2_CACHE", str(tmp_path))
    states = []
    for _ in range(2):
        lm = tiny()
        SVF(progress=False).inject(lm.model, "org/name")
        states.append(logits(lm))
        monkeypatch.setattr(torch.linalg, "svd", None)  # the second time nothing may be decomposed
    assert torch.equal(*states)
    assert len(list((tmp_path / "svd" / "org--name").glob("*.safetensors"))) == 14


@pytest.mark.parametrize(
    "source", ["pypi:llm-a/llm_a/model.Q4.gguf", "/models/model.Q4.gguf", "/models/x/", "org/x@main", "tiny:llama"]
)
def test_caches_stay_inside_their_folder(tmp_path, monkeypatch, source):
    monkeypatch.setenv("T2_CACHE", str(tmp_path))
    lm = tiny()
    SVF("q_proj", layers=[0], progress=False).inject(lm.model, source)
    (written,) = tmp_path.rglob("*.safetensors")
    assert written.parent.parent == tmp_path / "svd"


def test_singular_values_are_those_of_the_base():
    _, svf = adapted("gpt2")
    for name, s in svf.singular_values.items():
        weight = original("gpt2").model.get_submodule(name).weight
        torch.testing.assert_close(s, torch.linalg.svdvals(weight), rtol=1e-4, atol=1e-5)
        assert s.device.type == "cpu"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_that_multiplies_by_a_weight_itself_gets_that_of_the_mode(architecture: str) -> None:
    """As Mamba does; W where W' is asked for would leave a z that nothing moves."""
    _lm, svf = adapted(architecture, spread=0.1)
    name, layer = next(iter(svf.layers.items()))
    base, composed = layer.base.weight, dict(svf.merged_weights())[f"{svf.paths[name]}.weight"]
    torch.testing.assert_close(layer.weight, composed)
    (gradient,) = torch.autograd.grad(layer.weight.sum(), layer.parametrization.parameters())
    assert bool((gradient != 0).all())
    with svf.disabled():
        assert layer.weight is base
    with svf.merged({}):
        assert torch.equal(layer.weight, base)
    with svf.merged(dtype=torch.bfloat16):
        torch.testing.assert_close(layer.weight, composed, rtol=1e-2, atol=1e-2)  # in the dtype of the base
    states = {one: z[None] for one, z in svf.state().items()}
    with svf.per_example(states), pytest.raises(ValueError, match="multiplies by the weight of a Linear itself"):
        _ = layer.weight
