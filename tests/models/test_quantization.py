"""Which parts of a model are packed, by which name, and what is refused before anything is loaded."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo_models import tiny_architecture

from t2.models import nf4
from t2.models.int8 import Int8Embedding, Int8Linear
from t2.models.loading import load_model
from t2.models.quantization import check_quantization, quantize_model
from t2.models.quantized_linear import QuantizedLinear
from t2.models.tiny import ARCHITECTURES, tiny_llava, tiny_model

MIXTURES = (
    *("qwen2_moe", "qwen3_moe", "qwen3_next", "hunyuan_v1_moe", "jetmoe", "mixtral", "granitemoe", "gpt_oss", "jamba"),
    *("ernie4_5_moe", "llama4_text", "deepseek_v3", "afmoe", "nemotron_h", "longcat_flash", "phimoe"),
)
ROUTER = re.compile(r"\.(router|gate|wg|shared_expert_gate)(\.|$)")
CPU = torch.device("cpu")


def bytes_of(model: nn.Module) -> int:
    """Of parameters and buffers, each once."""
    held = {one.data_ptr(): one.numel() * one.element_size() for one in [*model.parameters(), *model.buffers()]}
    return sum(held.values())


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_computes_nearly_what_it_did(architecture: str) -> None:
    ids = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
    dense, packed = tiny_model(architecture), tiny_model(architecture, quantization="int8")
    assert (dense.quantization, packed.quantization) == ("none", "int8")
    expected, got = dense.model(ids).logits, packed.model(ids).logits
    assert 0 < float((got - expected).norm() / expected.norm()) < 0.05
    left = {name for name, one in packed.model.named_modules() if isinstance(one, nn.Linear | nn.Embedding)}
    kept = {"gpt2": {"transformer.wpe"}}  # of positions; Gemma's embeddings are scaled, and its head is tied to them
    assert left == kept.get(architecture, {"model.embed_tokens", "lm_head"} if "gemma" in architecture else set())
    assert (packed.dtype, packed.device) == (torch.float32, CPU)


def test_it_takes_a_quarter_of_the_memory_and_tied_weights_stay_one() -> None:
    settings = {"hidden_size": 256, "layers": 2}
    dense, packed = (tiny_model("llama_bias", quantization=name, **settings).model for name in ("none", "int8"))
    assert bytes_of(packed) / bytes_of(dense) < 0.27
    head, table = packed.get_output_embeddings(), packed.get_input_embeddings()
    assert isinstance(head, Int8Linear)
    assert isinstance(table, Int8Embedding)
    assert head.weight is table.weight


@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_what_a_model_multiplies_by_itself_stays_or_is_refused(tmp_path: Path, architecture: str) -> None:
    """`dt_proj` in both; Mamba reads the dtype of its head's weight as well."""
    lm = tiny_architecture(architecture)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    if architecture == "jamba":
        packed = load_model(str(tmp_path), quantization="int8").model
        assert all(type(one) is nn.Linear for name, one in packed.named_modules() if name.endswith("dt_proj"))
    else:
        with pytest.raises(ValueError, match=r"MambaForCausalLM reads a weight itself that .*=int8 packs"):
            load_model(str(tmp_path), quantization="int8")


def test_a_vision_encoder_and_routers_stay() -> None:
    llava = tiny_llava().model
    quantize_model(llava, "int8", CPU)
    packed = {name for name, one in llava.named_modules() if isinstance(one, QuantizedLinear)}
    assert all(name == "lm_head" or name.startswith("model.language_model.") for name in packed)
    assert len(packed) == 15
    moe = tiny_architecture("qwen3_moe").model
    quantize_model(moe, "int8", CPU)
    packed = {name.rpartition(".")[2] for name, one in moe.named_modules() if isinstance(one, QuantizedLinear)}
    assert packed == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}  # experts lie in 3-D parameters


@pytest.mark.parametrize("architecture", MIXTURES)
def test_the_routers_of_every_mixture_stay(architecture: str) -> None:
    model = tiny_architecture(architecture).model
    before = {name: one.weight for name, one in model.named_modules() if ROUTER.search(name) and hasattr(one, "weight")}
    quantize_model(model, "int8", CPU)
    assert before
    for name, weight in before.items():
        assert model.get_submodule(name).weight is weight, name


def test_the_log_says_how_much_is_packed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tiny_model(quantization="int8")
    assert "Quantized to int8: 99." in caplog.text


def test_a_folder_is_quantized_when_it_is_loaded(tmp_path: Path) -> None:
    lm = tiny_model()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    packed, ids = load_model(str(tmp_path), quantization="int8"), torch.arange(8)[None]
    quantize_model(lm.model, "int8", CPU)
    assert torch.equal(packed.model(ids).logits, lm.model(ids).logits)
    with pytest.raises(ValueError, match=r"quantized already \(int8\), and base_model.quantization is int8"):
        quantize_model(lm.model, "int8", CPU)


@pytest.mark.parametrize(
    ("name", "device", "by_block", "message"),
    [
        ("int9", "cpu", False, "quantization is 'int9'; allowed: int8, nf4, none. Did you mean 'int8'?"),
        ("int8", "balanced", False, "needs the model on one device, and base_model.device=balanced spreads it"),
        ("int8", "cuda", True, "and trainer=fsdp spreads it over several. Use trainer=ddp"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    name: str, device: str, by_block: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        check_quantization(name, device, by_block=by_block)
    with pytest.raises(ValueError, match=r"base_model\.quantization is 'int9'"):
        load_model("no/such/model", quantization="int9")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package bitsandbytes.*pip install 'transformer2\[quantized\]'"):
        tiny_model(quantization="nf4")


def test_a_device_that_cannot_run_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library = type(sys)("bitsandbytes")
    library.supported_torch_devices = {"cuda", "cpu"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setattr(nf4.importlib.util, "find_spec", lambda name: library)
    with pytest.raises(ValueError, match="nf4 does not run on meta; allowed, by bitsandbytes: cpu, cuda"):
        nf4.check_nf4(torch.device("meta"))
