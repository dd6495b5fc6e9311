"""A tiny GGUF file with a byte-level tokenizer, as llama.cpp's converter writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from tokenizers import pre_tokenizers

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


def write_gguf(lm: LanguageModel, path: Path, more: Callable[[GGUFWriter], None] = lambda writer: None) -> None:
    """The tiny llama as llama.cpp's converter writes it, its up projections of 4 bits replaced in the model, too.

    `more` adds to it.
    """
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
    writer.add_tokenizer_model("gpt2")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_token_list([*letters, "12", "123", *(f"<{n}>" for n in range(config.vocab_size - len(letters) - 2))])
    writer.add_token_merges(["1 2", "12 3"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(3)
    more(writer)
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
