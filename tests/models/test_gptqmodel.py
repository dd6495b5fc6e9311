"""Checkpoints in GPTQ and AWQ that gptqmodel made on this machine, loaded as a user loads them. Needs gptqmodel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import adapt, logits
from transformers import AutoConfig, AutoModelForCausalLM

from t2.models.loading import load_model
from t2.models.quantized_checkpoints import PackedLinear
from t2.models.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gptqmodel") is None, reason="gptqmodel is not installed: make test-gptq"
)
TEXTS = [f"{a} and {b} are {a + b}. " * 12 for a in range(4) for b in range(4)]


@pytest.fixture(scope="module", params=["gptq", "gptq_act_order", "awq"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The method and the folder of a tiny model's checkpoint, 4 bits in groups of 32."""
    gptqmodel: Any = importlib.import_module("gptqmodel")
    method, _, order = request.param.partition("_")
    folder = tmp_path_factory.mktemp(request.param)
    lm = tiny_model("llama", hidden_size=128)
    lm.model.save_pretrained(folder / "dense")
    lm.tokenizer.save_pretrained(folder / "dense")
    form = {"format": "gemm"} if method == "awq" else {"desc_act": bool(order)}
    settings = gptqmodel.QuantizeConfig(bits=4, group_size=32, quant_method=method, device="cpu", **form)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where gptqmodel writes its logs
        model = gptqmodel.GPTQModel.load(str(folder / "dense"), settings)
        model.quantize(TEXTS, batch_size=4)
        model.save(str(folder / "packed"))
    lm.tokenizer.save_pretrained(folder / "packed")
    return method, folder / "packed"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_its_linears_are_adapted_and_learn(packed: tuple[str, Path], dtype: str) -> None:
    method, folder = packed
    lm = load_model(str(folder), dtype=dtype)
    linears = [one for one in lm.model.modules() if isinstance(one, PackedLinear)]
    assert (lm.quantization, len(linears)) == (method, 7 * lm.model.config.num_hidden_layers)
    assert (
        0.5 <= sum(one.stored_bytes for one in linears) / sum(one.out_features * one.in_features for one in linears) < 1
    )
    base, ids = logits(lm), torch.arange(8)[None]
    svf = adapt(lm, spectrum="top", rank=4)
    assert torch.equal(logits(lm), base)
    lm.model(ids).logits.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in svf.trainable())
    with svf.disabled():
        assert torch.equal(logits(lm), base)


def test_it_computes_what_transformers_computes(packed: tuple[str, Path]) -> None:
    """With the kernel that transformers chooses by itself, which is another one."""
    _, folder = packed
    found, ids = load_model(str(folder), dtype="float32"), torch.arange(8)[None]
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config["desc_act"] = False  # else optimum asks for a kernel that is not there
    theirs = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, got = theirs(ids).logits, found.model(ids).logits
    assert type(theirs.model.layers[0].mlp.up_proj) is not type(found.model.model.layers[0].mlp.up_proj.inner)
    assert float((got - expected).norm() / expected.norm()) < 5e-3
