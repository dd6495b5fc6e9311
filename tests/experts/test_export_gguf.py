"""GGUF files: what transformers reads out of them computes the adapter's logits; other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from tiny_models import IDS, adapt, adapted, logits, random_state, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, GgufConfig

from t2.experts.export_gguf import export_gguf, source_file
from t2.models.language_model import LanguageModel

NAMES = {
    **{f"self_attn.{part}_proj": f"attn_{name}" for part, name in zip("qkvo", ("q", "k", "v", "output"), strict=True)},
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("up", "down", "gate")},
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def rows_of_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row 2 i + j of a head is its row i + j * half."""
    size = len(weight) // heads
    order = [head * size + i + j * size // 2 for head in range(heads) for i in range(size // 2) for j in (0, 1)]
    return weight[order]


def write_gguf(lm: LanguageModel, path: Path) -> None:
    """The tiny llama as llama.cpp's converter writes it, its down projections of 4 bits replaced in the model, too."""
    config, weights = lm.model.config, lm.model.state_dict()
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(3)
    writer.add_token_list([f"token {number}" for number in range(config.vocab_size)])
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for name, short in NAMES.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"].numpy()
            if short in ("attn_q", "attn_k"):
                weight = rows_of_llama_cpp(weight, {"attn_q": 4, "attn_k": 2}[short])
            if short == "ffn_up":
                packed = quantize(weight, GGMLQuantizationType.Q4_1)
                lm.model.get_submodule(f"model.layers.{layer}.{name}").weight.data = torch.from_numpy(
                    np.array(dequantize(packed, GGMLQuantizationType.Q4_1))
                )
                writer.add_tensor(f"blk.{layer}.{short}.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
            else:
                writer.add_tensor(f"blk.{layer}.{short}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
