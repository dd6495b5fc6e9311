"""GGUF files: what transformers reads out of them computes the adapter's logits; other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tiny_gguf import write_gguf
from tiny_models import IDS, adapt, adapted, logits, random_state, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, GgufConfig

from t2.adapters.low_rank import LowRank
from t2.experts.export_gguf import export_gguf, source_file


def read_logits(path: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    with torch.no_grad():
        return model(IDS).logits


def test_transformers_reads_the_merged_model(tmp_path: Path) -> None:
    """Catches rows of queries or keys in the wrong order, with the wrong number of heads, and a wrong tensor's name."""
    lm = tiny()
    source = tmp_path / "tiny.gguf"
    write_gguf(lm, source)
    assert torch.allclose(read_logits(source), logits(lm), atol=1e-4)
    svf = adapt(lm)
    state = random_state(svf)
    kept = "model.layers.1.mlp.up_proj"
    state[kept] = torch.ones_like(state[kept])
    with svf.merged(state):
        expected = logits(lm)
    out = export_gguf(lm, svf, state, tmp_path / "out", file=source, applied={})
    assert torch.allclose(read_logits(out / "model.gguf"), expected, atol=1e-4)
    assert not torch.allclose(read_logits(source), expected, atol=0.1)
    before, after = GGUFReader(source), GGUFReader(out / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type for tensor in after.tensors}
    assert list(kinds) == [tensor.name for tensor in before.tensors]
    assert kinds["blk.1.ffn_up.weight"] == GGMLQuantizationType.Q4_1  # it does not change
    assert kinds["blk.0.ffn_up.weight"] == GGMLQuantizationType.F32
    told = [{name: field.contents() for name, field in reader.fields.items()} for reader in (before, after)]
    assert {name for name, value in told[0].items() if told[1][name] != value} == {"general.file_type"}


def test_of_a_base_in_bfloat16_the_change_is_written_and_not_the_rounding(tmp_path: Path) -> None:
    """Small multipliers of SVF and a LoRA beside them: a W' that is rounded to bf16 would lose them."""
    lm = tiny()
    write_gguf(lm, tmp_path / "tiny.gguf")
    lm.model.to(torch.bfloat16)
    svf = adapt(lm)
    state, module = random_state(svf, spread=2e-3), "model.layers.0.mlp.down_proj"
    weight = svf.layers[module].base.weight.detach().float()
    draw = torch.Generator().manual_seed(1)
    lora = LowRank(module, *(0.01 * torch.randn(size, generator=draw) for size in ((32, 2), (2, 48))))
    svf.low_rank.attach({"lora": lora}, svf.layers)
    out = export_gguf(lm, svf, {**state, "lora": torch.tensor([1.5])}, tmp_path / "out",
                      file=tmp_path / "tiny.gguf", applied={})  # fmt: skip
    stored, written = (
        {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in GGUFReader(file).tensors}
        for file in (tmp_path / "tiny.gguf", out / "model.gguf")
    )
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    exact = (u * (s * (state[module] - 1))) @ vh + 0.5 * lora.output_factor @ lora.input_factor
    change = written["blk.0.ffn_down.weight"] - stored["blk.0.ffn_down.weight"]
    assert change.dtype == torch.float32
    assert (change - exact).norm() < 1e-2 * exact.norm()


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    write_gguf(tiny(), tmp_path / "tiny.gguf")
    lm, svf = adapted("mistral", spread=0.1)
    with torch.no_grad():
        svf.layers["model.layers.0.self_attn.q_proj"].base.weight.neg_()
    with pytest.raises(ValueError, match=r"blk.0.attn_q.weight of the GGUF file is not .*q_proj.*to=hf"):
        export_gguf(lm, svf, svf.state(), tmp_path / "out", file=tmp_path / "tiny.gguf", applied={})
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_base_that_came_from_no_gguf_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"came from, and org/model is none: .*convert_hf_to_gguf"):
        source_file("org/model")
