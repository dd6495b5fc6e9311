"""Random language models of a few thousand weights with a byte tokenizer, text-only or LLaVA, for tests.

Between them they have grouped-query attention, biases, tied heads, Conv1D, logit softcaps, an end-of-turn token beside
the end-of-text token, and a chat template that writes BOS itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import PositiveInt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from t2.models.checks import check_logits
from t2.models.language_model import LanguageModel
from t2.models.llava import VisionShape, build_llava
from t2.models.loading import parse_device
from t2.models.precision import parse_dtype
from t2.models.quantization import check_quantization, quantize_model
from t2.run.messages import check_choice
from t2.types import Seed

PAD, BOS, EOS, START, END = "<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Differences of each family from a llama with grouped-query attention and an untied head.
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama"},
    "llama_bias": {
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "model_type": "llama",
    },
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "gemma2": {"model_type": "gemma2", "tie_word_embeddings": True, "query_pre_attn_scalar": 8},
    "gemma3": {"model_type": "gemma3_text", "tie_word_embeddings": True, "query_pre_attn_scalar": 8},
    "gpt2": {"model_type": "gpt2", "tie_word_embeddings": True},
}
_HEADS, _KEY_VALUE_HEADS = 4, 2


def tiny_model(
    architecture: str = "llama",
    *,
    seed: Seed = 0,
    hidden_size: PositiveInt = 32,
    layers: PositiveInt = 2,
    context_length: PositiveInt = 512,
    dtype: str = "float32",
    device: str = "cpu",
    chat_template: bool = True,
    quantization: str = "none",
) -> LanguageModel:
    """Create a random model of a named architecture; weights depend on `seed` alone, and torch's global seed stays.

    Raises:
        ValueError: an unknown architecture, dtype or device, heads that do not divide the hidden size, no quantization.
    """
    check_choice("architecture", architecture, ARCHITECTURES)
    if hidden_size % (2 * _HEADS):
        raise ValueError(f"hidden_size is {hidden_size}; it must be a multiple of {2 * _HEADS}.")
    torch_dtype, torch_device = parse_dtype(dtype), parse_device(device)
    check_quantization(quantization, str(torch_device))
    tokenizer = byte_tokenizer(chat_template)
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_VALUE_HEADS,
        "head_dim": hidden_size // _HEADS,
        "max_position_embeddings": context_length,
        "initializer_range": 0.2,  # the usual 0.02 gives nearly uniform logits, which tests could not tell apart
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(**(settings | ARCHITECTURES[architecture]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # initialized to zero, which would hide a missing bias
                nn.init.normal_(parameter, std=0.2)
    model.to(torch_device, torch_dtype)
    quantize_model(model, quantization, torch_device)
    language_model = LanguageModel(model, tokenizer, f"tiny:{architecture}")
    check_logits(language_model)
    return language_model


def tiny_llava(
    architecture: str = "llama", *, seed: Seed = 0, layers: PositiveInt = 2, dtype: str = "float32"
) -> LanguageModel:
    """Create a random LLaVA: a vision encoder of 16 patches and a projector in front of a `tiny_model`."""
    text = tiny_model(architecture, seed=seed, layers=layers, dtype=dtype)
    shape = VisionShape(image_size=32, patch_size=8, hidden_size=32, layers=2, heads=2)
    return build_llava(text, shape, source=f"tiny:llava-{architecture}", seed=seed)


def byte_tokenizer(
    chat_template: bool = True, extra: Mapping[str, str] = MappingProxyType({})
) -> PreTrainedTokenizerBase:
    """A tokenizer with one token per byte and five special ones; it prepends BOS to plain text, as llama's does.

    `extra` are more special tokens, by the attribute of the tokenizer that names them (`image_token`).
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(name, special=True) for name in (PAD, BOS, EOS, START, END, *extra.values())]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START, END],
        **({"model_specific_special_tokens": dict(extra)} if extra else {}),
    )
    tokenizer.chat_template = TEMPLATE if chat_template else None
    return tokenizer
