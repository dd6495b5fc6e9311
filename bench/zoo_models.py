"""Random models of a few thousand weights of every causal language model that transformers has, for the zoo.

The architectures are those of transformers' own mapping, so that a new one is there without being named here. A model
is its default configuration with the sizes of `SMALL`, where it has a setting of that name, and what `OVERRIDES` says
for those whose sizes depend on each other. Not done here: what is looked at (`bench/zoo_row.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from t2.models.language_model import LanguageModel
from t2.models.tiny import byte_tokenizer

MOST_NUMBERS = 2_000_000
_TOKENS = byte_tokenizer()
SMALL: dict[str, Any] = {
    "vocab_size": len(_TOKENS), "bos_token_id": _TOKENS.bos_token_id, "eos_token_id": _TOKENS.eos_token_id,
    "pad_token_id": _TOKENS.pad_token_id, "max_position_embeddings": 512, "n_positions": 512, "is_decoder": True,
    "initializer_range": 0.2, "init_std": 0.2,  # the usual 0.02 gives nearly uniform logits, which say nothing
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), 48), "n_inner": 64,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2), "head_dim": 8, "query_pre_attn_scalar": 8,
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8), "q_lora_rank": 16, "kv_lora_rank": 16,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
                     "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "mamba_n_heads", "mamba_d_head",
                     "mamba_head_dim", "mamba_num_heads", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1), "mamba_expand": 2, "mamba_d_ssm": 64,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "chunk_size": 16, "mamba_chunk_size": 16,
    "time_step_rank": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
}  # fmt: skip
_LATENT = {"num_key_value_heads": 4}  # attention through a latent has as many keys as queries
_INDEXED = _LATENT | {"index_n_heads": 4, "index_head_dim": 16}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "dots3_note_text", "glm4_moe_lite", "youtu"),
                    _LATENT),
    "minicpm3": _LATENT | {"dim_model_base": 32},
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _INDEXED),
    "longcat_flash": _LATENT | {"zero_expert_num": 2},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _HYBRID),
    "bailing_hybrid": _LATENT | _HYBRID,
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "gemma3n_text": {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(_TOKENS), "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4, "altup_num_inputs": 2,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(_TOKENS)},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "moe"]},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


class NotBuilt(Exception):
    """A model that no tiny configuration is known for; the message says why."""


def architectures() -> list[str]:
    """The model types of transformers' causal language models, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_architecture(model_type: str, *, seed: int = 0) -> LanguageModel:
    """A random model of a type; torch's global seed stays.

    Raises:
        NotBuilt: the configuration is one of several models, or the model cannot be made small.
        ValueError: t2 refuses the model.
    """
    config = _config(model_type)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            if size > MOST_NUMBERS:
                raise NotBuilt("its defaults do not shrink")
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, AssertionError) as error:
            raise NotBuilt(f"no tiny configuration is known ({type(error).__name__})") from error
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)  # initialized to zero, which would hide a missing bias
    return LanguageModel(model.eval(), byte_tokenizer(), f"tiny:{model_type}")


def _config(model_type: str) -> Any:
    kind = CONFIG_MAPPING[model_type]
    try:
        default = kind()
        aliases = getattr(default, "attribute_map", {})
        known = {*default.to_dict(), *aliases}
        small = {aliases.get(key, key): value for key, value in SMALL.items() if key in known}
        config = kind(**(small | OVERRIDES.get(model_type, {})))
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise NotBuilt(f"no tiny configuration is known ({type(error).__name__})") from error
    try:
        alone = config.get_text_config() is config
    except ValueError:  # several text models
        alone = False
    if not alone:
        raise NotBuilt("it has a text model in it, or other models beside it")
    return config
